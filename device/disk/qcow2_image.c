// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/disk/qcow2_image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device/disk/disk.h"
#include "device/disk/qcow2_header.h"

/*
 * What is read of an image before it is known how much of it there is to read.
 */
#define FIRST_BYTES 4096

static const char *last_component(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* A header's name, for a message. */
static const char *printable(char *to, size_t room, const char *from)
{
	size_t n;

	for (n = 0; from[n] && n + 1 < room; n++)
		to[n] = from[n] < ' ' || from[n] > '~' ? '?' : from[n];
	to[n] = '\0';
	return to;
}

static int part_open(struct qcow2_image *image, const char *path, bool writable, struct err *err)
{
	int flags = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK;
	int fd = open(path, flags);
	struct stat st;

	if (fd < 0)
		return err_errno(err, -errno, "opening it");
	if (fstat(fd, &st) < 0 || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))) {
		close(fd);
		return err_set(err, -EINVAL, "it is neither a file nor a block device");
	}
	image->block[image->n] = S_ISBLK(st.st_mode);
	image->fd[image->n++] = fd;
	return 0;
}

/*
 * What the host's cache has of a file that another machine writes to is old
 * soon.
 */
static int header_read(struct qcow2_header *header, int fd, struct err *err)
{
	uint8_t *data = malloc(QCOW2_CLUSTER_MAX);
	ssize_t n;
	int r;

	if (!data)
		return err_set(err, -ENOMEM, "no memory for its header");
	n = pread(fd, data, FIRST_BYTES, 0);
	if (n == FIRST_BYTES && qcow2_header_bytes(data, (size_t)n) > FIRST_BYTES)
		n = pread(fd, data, qcow2_header_bytes(data, (size_t)n), 0);
	if (n < 0)
		r = err_errno(err, -errno, "reading its header");
	else
		r = qcow2_header_parse(header, data, (size_t)n, err);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	free(data);
	return r;
}

/*
 * An image's header and the user name the same, or neither does. option: with
 * what the user names it.
 */
static int names_match(const char *header, const char *user, const char *option, const char *what,
		       struct err *err)
{
	char text[128];

	printable(text, sizeof(text), header);
	if (*header && !user)
		return err_set(err, -EACCES,
			       "its header names \"%s\" as %s, which is opened only if %s=FILE "
			       "names it, too", text, what, option);
	if (!*header && user)
		return err_set(err, -EINVAL, "%s=%.120s, but its header names nothing as %s",
			       option, user, what);
	/* A protocol's, or one that QEMU would take for one, is no file. */
	if (user && (strcmp(last_component(header), last_component(user)) != 0 ||
		     !strncmp(header, "json:", 5)))
		return err_set(err, -EINVAL, "%s=%.120s, but its header names \"%s\" as %s", option,
			       user, text, what);
	return 0;
}

static int data_file_open(struct qcow2_image *image, const struct qcow2_header *header,
			  const struct disk_config *config, struct err *err)
{
	const char *name = header->has_data_file ? header->data_file : "";
	int r;

	/* An image may be without its data and not say where it is. */
	if (header->has_data_file && !*name && config->data_file)
		r = 0;
	else if (header->has_data_file && !*name)
		r = err_set(err, -EACCES,
			    "its data is in another file, which its header does not name: "
			    "data-file=FILE does");
	else
		r = names_match(name, config->data_file, "data-file", "the file that has its data",
				err);
	if (r < 0 || !config->data_file)
		return r;
	image->data_file = true;
	r = part_open(image, config->data_file, !config->readonly, err);
	return r < 0 ? err_prefix(err, r, "data-file %.200s", config->data_file) : 0;
}

/* Of an image below: what it is, by the one above it. */
static int format_take(bool *raw, const char *format, struct err *err)
{
	char text[sizeof(((struct qcow2_header *)0)->backing_format)];

	*raw = !strcmp(format, "raw");
	if (*raw || !strcmp(format, "qcow2"))
		return 0;
	if (!*format)
		return err_set(err, -EINVAL,
			       "its header does not say of what format the image below it is: "
			       "qemu-img rebase -u -F raw, or -F "
					     "qcow2, and -b with the name writes that");
	return err_set(err, -EINVAL,
		       "its header says that the image below it is \"%s\": raw and qcow2 are "
		       "supported",
		       printable(text, sizeof(text), format));
}

/* The image below number i: fills in header, if it has one. */
static int backing_open(struct qcow2_image *image, struct qcow2_header *header,
			const struct disk_config *config, unsigned int i,
			struct err *err)
{
	const char *path = config->backing[i];
	bool *raw = &image->raw[image->n];
	int r = format_take(raw, header->backing_format, err);

	if (r < 0)
		return r;
	r = part_open(image, path, false, err);
	memset(header, 0, sizeof(*header));
	if (!r && !*raw)
		r = header_read(header, image->fd[image->n - 1], err);
	if (!r && header->has_data_file)
		r = err_set(err, -EINVAL,
			    "its data is in another file, which is not supported below another "
			    "image");
	return r < 0 ? err_prefix(err, r, "backing %.200s", path) : 0;
}

static int all_open(struct qcow2_image *image, const struct disk_config *config, struct err *err)
{
	struct qcow2_header header;
	const char *path = config->path;
	unsigned int i;
	int r = part_open(image, path, !config->readonly, err);

	if (!r)
		r = header_read(&header, image->fd[0], err);
	image->bytes = r ? 0 : header.bytes & ~(uint64_t)(DISK_SECTOR_BYTES - 1);
	if (!r && !image->bytes)
		r = err_set(err, -EINVAL, "smaller than a sector of %d bytes", DISK_SECTOR_BYTES);
	if (!r)
		r = data_file_open(image, &header, config, err);
	for (i = 0; !r && i <= config->backings; i++) {
		r = names_match(header.backing, i < config->backings ? config->backing[i] : NULL,
				"backing", "the image below it", err);
		if (r < 0 && i)
			err_prefix(err, r, "backing %.200s", path);
		if (r || i == config->backings)
			break;
		path = config->backing[i];
		r = backing_open(image, &header, config, i, err);
	}
	return r;
}

int qcow2_image_open(struct qcow2_image *image, const struct disk_config *config, struct err *err)
{
	int fd, r;

	memset(image, 0, sizeof(*image));
	image->readonly = config->readonly;
	r = all_open(image, config, err);
	if (r < 0) {
		qcow2_image_close(image);
		return r;
	}
	fd = open(config->path,
		  (config->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_DIRECT);
	image->direct = fd >= 0;
	if (fd >= 0)
		close(fd);
	return 0;
}

void qcow2_image_close(struct qcow2_image *image)
{
	while (image->n)
		close(image->fd[--image->n]);
}

void qcow2_image_describe(const struct qcow2_image *image, unsigned int first,
			  char to[QCOW2_JSON_BYTES])
{
	unsigned int i, open = 0;
	size_t n = 0;

	/*
	 * There is room: a file takes 90 bytes. Each image but the lowest is
	 * open until all are said.
	 */
	_Static_assert(QCOW2_FILES_MAX * 96 + 32 < QCOW2_JSON_BYTES, "it fits");
#define SAY(...) (n += (size_t)snprintf(to + n, QCOW2_JSON_BYTES - n, __VA_ARGS__))
#define SAY_FILE(i) \
	SAY("{\"driver\":\"%s\",\"filename\":\"/proc/self/fd/%u\"}", \
	    image->block[i] ? "host_device" : "file", first + (i))
	SAY("json:");
	for (i = 0; i < image->n; i++) {
		if (i == 1 && image->data_file)
			continue;
		SAY("%s{\"driver\":\"%s\",\"file\":", i ? ",\"backing\":" : "",
		    image->raw[i] ? "raw" : "qcow2");
		SAY_FILE(i);
		if (!i && image->data_file) {
			SAY(",\"data-file\":");
			SAY_FILE(1);
		}
		open++;
	}
	/* Nothing, said so: otherwise the header's word would count. */
	if (!image->raw[image->n - 1])
		SAY(",\"backing\":null");
	while (open--)
		SAY("}");
#undef SAY_FILE
#undef SAY
}
