// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "snapshot/host.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>

#include "arch/arch.h"

#define NS_MAX 999999999

static const char *const boot_names[] = {
	[BOOT_NOTHING] = "nothing",
	[BOOT_FILES] = "files",
	[BOOT_DISK] = "disk",
};
#define BOOTS (sizeof(boot_names) / sizeof(boot_names[0]))

/* ---- of a machine ---- */

static void list_architecture(struct manifest_machine *to)
{
	struct utsname name;

	snprintf(to->architecture, sizeof(to->architecture), "%.15s",
		 uname(&name) < 0 ? "unknown" : name.machine);
	snprintf(to->postern, sizeof(to->postern), "%s", POSTERN_VERSION);
}

static void list_memory(struct manifest_machine *to, const struct memory *mem)
{
	const struct memory_region *region;
	unsigned int i;

	region = memory_regions(mem, &to->n_ranges);
	for (i = 0; i < to->n_ranges; i++)
		to->ranges[i] = (struct memory_range){ gfn_to_gpa(region[i].first),
						       region[i].pages * PAGE_BYTES };
}

/* Has it a file that tells when it was written to? */
static bool disk_is_file(const struct disk_info *info)
{
	return !strcmp(info->driver, "file") || !strcmp(info->format, "qcow2");
}

static int list_disks(struct host_list *list, struct machine *machine, struct err *err)
{
	struct manifest_machine *to = &list->machine;
	struct manifest_disk *disk;
	struct disk_info info;

	for (; machine_disk(machine, to->n_disks, &info); to->n_disks++) {
		if (to->n_disks == MANIFEST_DISKS_MAX)
			return err_set(err, -E2BIG, "more than %d disks", MANIFEST_DISKS_MAX);
		disk = &to->disks[to->n_disks];
		snprintf(disk->name, sizeof(disk->name), "%s", info.device);
		snprintf(disk->target, sizeof(disk->target), "%.255s", info.file);
		disk->bytes = info.bytes;
		disk->read_only = info.readonly;
		if (!disk_is_file(&info))
			continue;
		list->path[to->n_disks] = strdup(info.file);
		if (!list->path[to->n_disks])
			return err_set(err, -ENOMEM, "no memory for a disk's name");
	}
	list->record.disks = to->n_disks;
	return 0;
}

static int list_boot(struct host_record *record, const struct boot_files *boot, struct err *err)
{
	record->boot = boot->type;
	record->cmdline = boot->cmdline ? strdup(boot->cmdline) : NULL;
	record->append = boot->append ? strdup(boot->append) : NULL;
	if ((boot->cmdline && !record->cmdline) || (boot->append && !record->append))
		return err_set(err, -ENOMEM, "no memory for the command line");
	return 0;
}

int host_list_make(struct host_list *list, struct machine *machine, struct err *err)
{
	const struct machine_config *config = machine_config(machine);
	int r;

	*list = (struct host_list){ 0 };
	list->machine.cpus = config->cpus;
	list_architecture(&list->machine);
	if (config->name)
		snprintf(list->machine.name, sizeof(list->machine.name), "%s", config->name);
	list_memory(&list->machine, machine_memory(machine));
	list->record.parked_ns = machine_parked_ns(machine);
	r = list_disks(list, machine, err);
	return r ? r : list_boot(&list->record, machine_boot(machine), err);
}

void host_list_fini(struct host_list *list)
{
	unsigned int i;

	for (i = 0; i < MANIFEST_DISKS_MAX; i++)
		free(list->path[i]);
	host_record_fini(&list->record);
}

/* ---- as text ---- */

static json_t *host_disk_to_json(const struct host_disk *disk)
{
	if (!disk->has_time)
		return json_object();
	return json_pack("{s:[I,I]}", "written", (json_int_t)disk->time_s,
			 (json_int_t)disk->time_ns);
}

static int record_format(const struct host_record *record, char **out, struct err *err)
{
	json_t *disks = json_array(), *json;
	unsigned int i;

	for (i = 0; i < record->disks; i++)
		json_array_append_new(disks, host_disk_to_json(&record->disk[i]));
	json = json_pack("{s:s,s:o,s:I}", "boot", boot_names[record->boot], "disks", disks,
			 "parked", (json_int_t)record->parked_ns);
	if (json && record->cmdline &&
	    json_object_set_new(json, "cmdline", json_string(record->cmdline)) < 0)
		goto bad_text;
	if (json && record->append &&
	    json_object_set_new(json, "append", json_string(record->append)) < 0)
		goto bad_text;
	*out = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	if (!*out)
		return err_set(err, -ENOMEM, "no memory for the manifest");
	if (strlen(*out) > MANIFEST_OPTIONS_MAX)
		return err_set(err, -E2BIG, "the command line is too long for an image");
	return 0;

bad_text:
	json_decref(json);
	return err_set(err, -EINVAL, "the command line is not UTF-8: it cannot be saved");
}

static int host_look_at(struct host_disk *disk, const char *path, struct err *err)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return err_errno(err, -errno, "disk %s", path);
	disk->has_time = S_ISREG(st.st_mode);
	disk->time_s = st.st_mtim.tv_sec;
	disk->time_ns = (uint32_t)st.st_mtim.tv_nsec;
	return 0;
}

int host_list_look(struct host_list *list, char **options, struct err *err)
{
	unsigned int i;
	int r = 0;

	*options = NULL;
	for (i = 0; i < list->record.disks && !r; i++)
		if (list->path[i])
			r = host_look_at(&list->record.disk[i], list->path[i], err);
	return r ? r : record_format(&list->record, options, err);
}

/* ---- and back ---- */

static int parse_text(char **to, const json_t *json, const char *key, struct err *err)
{
	const json_t *value = json_object_get(json, key);

	if (!value)
		return 0;
	if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value))
		return err_set(err, -EBADMSG, "\"%s\" is no text", key);
	*to = strdup(json_string_value(value));
	return *to ? 0 : err_set(err, -ENOMEM, "no memory for the manifest");
}

static int parse_disk(struct host_disk *disk, const json_t *json, struct err *err)
{
	const json_t *written = json_object_get(json, "written");
	json_int_t ns = json_integer_value(json_array_get(written, 1));

	if (!json_is_object(json))
		return err_set(err, -EBADMSG, "\"disks\" has something that is no disk");
	if (!written)
		return 0;
	if (json_array_size(written) != 2 || !json_is_integer(json_array_get(written, 0)) ||
	    !json_is_integer(json_array_get(written, 1)) || ns < 0 || ns > NS_MAX)
		return err_set(err, -EBADMSG, "\"written\" of a disk is no time");
	disk->has_time = true;
	disk->time_s = json_integer_value(json_array_get(written, 0));
	disk->time_ns = (uint32_t)ns;
	return 0;
}

static int parse_boot(enum boot_type *kind, const json_t *json, struct err *err)
{
	const char *name = json_string_value(json_object_get(json, "boot"));
	unsigned int i;

	for (i = 0; i < BOOTS && name; i++)
		if (!strcmp(boot_names[i], name)) {
			*kind = (enum boot_type)i;
			return 0;
		}
	return err_set(err, -EBADMSG, "\"boot\" is none of nothing, files and disk");
}

static int parse_parked(int64_t *ns, const json_t *json, struct err *err)
{
	const json_t *parked = json_object_get(json, "parked");

	if (!parked)
		return 0;
	*ns = json_integer_value(parked);
	return *ns > 0 ? 0 : err_set(err, -EBADMSG, "\"parked\" is no time");
}

static int parse_disks(struct host_record *record, const json_t *json, struct err *err)
{
	const json_t *disks = json_object_get(json, "disks"), *disk;
	size_t i;
	int r = 0;

	if (!json_is_array(disks) || json_array_size(disks) > MANIFEST_DISKS_MAX)
		return err_set(err, -EBADMSG, "\"disks\" is no list, or too long");
	json_array_foreach(disks, i, disk)
		if (!r)
			r = parse_disk(&record->disk[i], disk, err);
	record->disks = (unsigned int)json_array_size(disks);
	return r;
}

int host_record_parse(struct host_record *record, const char *options, struct err *err)
{
	json_t *json = json_loads(options ? options : "", JSON_REJECT_DUPLICATES, NULL);
	int r;

	*record = (struct host_record){ 0 };
	if (!json_is_object(json))
		r = err_set(err, -EBADMSG, "what its machine's options are is no object");
	else
		r = parse_boot(&record->boot, json, err);
	if (!r)
		r = parse_text(&record->cmdline, json, "cmdline", err);
	if (!r)
		r = parse_text(&record->append, json, "append", err);
	if (!r)
		r = parse_parked(&record->parked_ns, json, err);
	if (!r)
		r = parse_disks(record, json, err);
	json_decref(json);
	if (r < 0)
		host_record_fini(record);
	return r;
}

void host_record_fini(struct host_record *record)
{
	free(record->cmdline);
	free(record->append);
	*record = (struct host_record){ 0 };
}

/* ---- is it so here? ---- */

uint64_t host_memory_bytes(const struct manifest_machine *machine)
{
	uint64_t bytes = 0;
	unsigned int i;

	for (i = 0; i < machine->n_ranges; i++)
		if (__builtin_add_overflow(bytes, machine->ranges[i].len_bytes, &bytes))
			return UINT64_MAX;
	return bytes;
}

int host_check_shape(const struct manifest_machine *machine, struct err *err)
{
	struct memory_range ranges[MEMORY_REGIONS_MAX];
	struct manifest_machine here = { 0 };
	uint64_t bytes = host_memory_bytes(machine);
	unsigned int i, n;
	int r;

	list_architecture(&here);
	if (strcmp(machine->architecture, here.architecture))
		return err_set(err, -EINVAL,
			       "it is of a machine of architecture %s, this host is %s",
			       machine->architecture, here.architecture);
	if (machine->cpus < 1 || machine->cpus > VM_VCPUS_MAX)
		return err_set(err, -EINVAL,
			       "it is of a machine with %u vCPUs, 1 to %u are possible here",
			       machine->cpus, (unsigned int)VM_VCPUS_MAX);
	if (!bytes || bytes % HUGE_BYTES || bytes > ARCH_RAM_MAX)
		return err_set(err, -EINVAL,
			       "it is of a machine with %" PRIu64
			       " bytes of memory, at most %" PRIu64
			       " are possible here, in steps of 2 MiB",
			       bytes, ARCH_RAM_MAX);
	r = arch_memory_layout(bytes, ranges, &n, err);
	if (r < 0)
		return r;
	for (i = 0; i < n && n == machine->n_ranges; i++)
		if (ranges[i].base.v != machine->ranges[i].base.v ||
		    ranges[i].len_bytes != machine->ranges[i].len_bytes)
			break;
	return i == machine->n_ranges && i == n ?
		       0 :
		       err_set(err, -EPROTO,
			       "its memory lies elsewhere than a machine's of this postern "
			       "(%s; it was saved by %s)",
			       POSTERN_VERSION, machine->postern);
}

/* file: where that disk's data was when the guest was saved, as far as it is here. */
static int check_disk(const struct manifest_disk *was, const struct host_disk *then,
		      const struct disk_info *info, const char *file, struct err *err)
{
	struct host_disk now = { 0 };
	int r;

	if (info->bytes != was->bytes)
		return err_set(err, -ESTALE,
			       "disk %s has %" PRIu64 " bytes, and had %" PRIu64
			       " (%s) when the guest was saved",
			       file, info->bytes, was->bytes, was->target);
	if (info->readonly != was->read_only)
		return err_set(err, -ESTALE, "disk %s (%s) was %s when the guest was saved", file,
			       was->target, was->read_only ? "read-only" : "writable");
	if (!then->has_time || !disk_is_file(info))
		return 0;
	r = host_look_at(&now, file, err);
	if (r < 0)
		return r;
	if (now.has_time && now.time_s == then->time_s && now.time_ns == then->time_ns)
		return 0;
	return err_set(err, -ESTALE,
		       "disk %s has been written to since the guest was saved, or is another: its "
		       "file systems would be destroyed",
		       file);
}

int host_check_disks(const struct manifest *manifest, const struct host_record *record,
		     struct machine *machine, char *const below[MANIFEST_DISKS_MAX],
		     struct err *err)
{
	const struct manifest_machine *was = &manifest->machine;
	struct disk_info info;
	unsigned int i;
	int r = 0;

	if (record->disks != was->n_disks)
		return err_set(err, -EBADMSG, "the manifest names %u disks and describes %u",
			       was->n_disks, record->disks);
	for (i = 0; i < was->n_disks && !r; i++)
		r = machine_disk(machine, i, &info) ?
			    check_disk(&was->disks[i], &record->disk[i], &info,
				       below && below[i] ? below[i] : info.file, err) :
			    err_set(err, -EINVAL,
				    "the guest had %u disk%s when it was saved, and has %u "
				    "here: give it the same, in the same order (number %u was %s)",
				    was->n_disks, was->n_disks == 1 ? "" : "s", i, i + 1,
				    was->disks[i].target);
	if (!r && machine_disk(machine, was->n_disks, &info))
		r = err_set(err, -EINVAL,
			    "disk %s was not there when the guest was saved: leave it out",
			    info.file);
	if (r == -ESTALE)
		err_prefix(err, r, "--changed-disks restores all the same");
	return r;
}
