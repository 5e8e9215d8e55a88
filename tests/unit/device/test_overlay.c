// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Overlays over disks: what is in the file that is made, what is refused, and that a
 * disk below stays as it is. The latter is skipped where qemu-nbd is not installed.
 */
#include <errno.h>
#include <sys/mman.h>

#include "device/disk/overlay.h"
#include "device/disk/qcow2_image.h"

#include "nbd_servers.h"

#define DISK_BYTES (1 << 20)

/* A directory, a raw disk in it, and where overlays are to be. */
struct place {
	char dir[64], base[80], overlay[80], other[80];
};

static void fill(const char *path, int byte)
{
	static uint8_t data[DISK_BYTES];
	int fd = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);

	memset(data, byte, sizeof(data));
	assert_int_equal(write(fd, data, sizeof(data)), sizeof(data));
	close(fd);
}

static void place_new(struct place *p)
{
	strcpy(p->dir, "/tmp/postern-overlay-XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	snprintf(p->base, sizeof(p->base), "%s/base", p->dir);
	snprintf(p->overlay, sizeof(p->overlay), "%s/overlay", p->dir);
	snprintf(p->other, sizeof(p->other), "%s/other", p->dir);
	fill(p->base, 0x11);
}

static void place_free(struct place *p)
{
	unlink(p->base);
	unlink(p->overlay);
	unlink(p->other);
	assert_int_equal(rmdir(p->dir), 0);
}

static int make(const char *path, const char *below, struct disk_overlay *overlay, struct err *err)
{
	struct disk_config config;
	int r;

	assert_int_equal(disk_config_parse(&config, below, err), 0);
	r = disk_overlay_make(overlay, path, &config, err);
	disk_config_fini(&config);
	return r;
}

static void made(const char *path, const char *below)
{
	struct disk_overlay overlay;
	struct err err;

	if (make(path, below, &overlay, &err) < 0)
		fail_msg("%s", err.text);
}

/* The description that qemu-nbd gets; the image is opened as a disk is. */
static uint64_t looked_at(const char *text, char json[QCOW2_JSON_BYTES])
{
	struct qcow2_image image;
	struct disk_config config;
	struct err err;
	uint64_t bytes;

	assert_int_equal(disk_config_parse(&config, text, &err), 0);
	if (qcow2_image_open(&image, &config, &err) < 0)
		fail_msg("%s", err.text);
	qcow2_image_describe(&image, 5, json);
	bytes = image.bytes;
	qcow2_image_close(&image);
	disk_config_fini(&config);
	return bytes;
}

static void an_overlay_is_an_image_over_the_disk(void **state)
{
	char text[300], json[QCOW2_JSON_BYTES];
	struct place p;
	struct stat st;

	(void)state;
	place_new(&p);
	made(p.overlay, p.base);
	snprintf(text, sizeof(text), "%s,format=qcow2,backing=%s", p.overlay, p.base);
	assert_int_equal(looked_at(text, json), DISK_BYTES);
	assert_non_null(strstr(json, "\"backing\":{\"driver\":\"raw\""));
	assert_int_equal(stat(p.overlay, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	/* And one over that. */
	made(p.other, text);
	snprintf(text, sizeof(text), "%s,format=qcow2,backing=%s,backing=%s", p.other, p.overlay,
		 p.base);
	assert_int_equal(looked_at(text, json), DISK_BYTES);
	assert_non_null(strstr(json, "\"backing\":{\"driver\":\"qcow2\""));
	place_free(&p);
}

static void check_refused(const char *path, const char *below, int code, const char *why)
{
	struct disk_overlay overlay;
	struct err err;

	assert_int_equal(make(path, below, &overlay, &err), code);
	if (!strstr(err.text, why))
		fail_msg("\"%s\" in \"%s\"", why, err.text);
}

static void what_cannot_be_is_refused_and_leaves_nothing(void **state)
{
	char text[300], name[1200];
	struct place p;
	int fd;

	(void)state;
	place_new(&p);
	check_refused(p.overlay, "nbd://host/", -EINVAL, "at a server");
	check_refused(p.overlay, p.other, -ENOENT, p.other);
	check_refused(p.overlay, "/dev/null", -EINVAL, "neither a file nor a block device");
	check_refused(p.overlay, p.dir, -EINVAL, "neither a file nor a block device");
	snprintf(text, sizeof(text), "%s,format=qcow2", p.base);
	check_refused(p.overlay, text, -EINVAL, "no qcow2 image");
	snprintf(text, sizeof(text), "%s/none/overlay", p.dir);
	check_refused(text, p.base, -ENOENT, text);
	check_refused(p.base, p.base, -EEXIST, "nothing is overwritten");
	assert_int_equal(symlink(p.other, p.overlay), 0);
	check_refused(p.overlay, p.base, -EEXIST, "nothing is overwritten");
	unlink(p.overlay);
	/* The header has no room for the name; the file is removed. */
	snprintf(name, sizeof(name), "%s", p.dir);
	while (strlen(name) < 1024)
		strcat(name, "/.");
	strcat(name, "/base");
	check_refused(p.overlay, name, -ENAMETOOLONG, "room for a name of 1023 bytes");
	assert_int_equal(access(p.overlay, F_OK), -1);
	/* It looks like another format, and nothing says which it is. */
	fd = open(p.base, O_RDWR | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "QFI\xfb", 4, 0), 4);
	close(fd);
	check_refused(p.overlay, p.base, -EINVAL, "format=raw");
	assert_int_equal(access(p.overlay, F_OK), -1);
	place_free(&p);
}

static void a_disk_that_somebody_writes_to_is_refused(void **state)
{
	struct disk_overlay overlay;
	struct disks writer;
	struct err err;
	struct place p;

	(void)state;
	place_new(&p);
	disks_open(&writer, p.base, false);
	assert_int_equal(make(p.overlay, p.base, &overlay, &err), -EBUSY);
	assert_non_null(strstr(err.text, "may write to it"));
	assert_int_equal(access(p.overlay, F_OK), -1);
	disks_close(&writer);
	made(p.overlay, p.base);
	place_free(&p);
}

static void disks_of_any_size_have_one(void **state)
{
	static const uint64_t sizes[] = { 512, 512ull << 20, (512ull << 20) + 512, 3ull << 40,
					  2ull << 50 };
	const char *check[] = { "qemu-img", "check", "-q", "-f", "qcow2", NULL, NULL };
	char below[32], text[300], json[QCOW2_JSON_BYTES];
	struct place p;
	unsigned int i;
	int fd;

	(void)state;
	place_new(&p);
	check[5] = p.overlay;
	/* qemu-img opens it too, by the same name. */
	fd = memfd_create("disk", 0);
	snprintf(below, sizeof(below), "/proc/self/fd/%d", fd);
	for (i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		assert_int_equal(ftruncate(fd, (off_t)sizes[i]), 0);
		made(p.overlay, below);
		snprintf(text, sizeof(text), "%s,format=qcow2,backing=%s", p.overlay, below);
		assert_int_equal(looked_at(text, json), sizes[i]);
		if (have("qemu-img"))
			assert_int_equal(run_to_end(check), 0);
		unlink(p.overlay);
	}
	assert_int_equal(ftruncate(fd, (off_t)((2ull << 50) + 512)), 0);
	check_refused(p.overlay, below, -EFBIG, "larger than a qcow2 image can be");
	assert_int_equal(access(p.overlay, F_OK), -1);
	close(fd);
	place_free(&p);
}

static void only_what_was_made_is_removed(void **state)
{
	struct disk_overlay overlay;
	struct err err;
	struct place p;

	(void)state;
	place_new(&p);
	assert_int_equal(make(p.overlay, p.base, &overlay, &err), 0);
	assert_int_equal(rename(p.overlay, p.other), 0);
	disk_overlay_remove(&overlay, p.overlay);
	fill(p.overlay, 0);
	disk_overlay_remove(&overlay, p.overlay);
	assert_int_equal(access(p.overlay, F_OK), 0);
	assert_int_equal(access(p.other, F_OK), 0);
	unlink(p.overlay);
	assert_int_equal(rename(p.other, p.overlay), 0);
	disk_overlay_remove(&overlay, p.overlay);
	assert_int_equal(access(p.overlay, F_OK), -1);
	place_free(&p);
}

#ifdef POSTERN_NBD
static void check_block(struct disks *d, uint64_t offset, int byte)
{
	static uint8_t in[4096], wanted[4096];

	memset(wanted, byte, sizeof(wanted));
	assert_int_equal(job_run(d, DISK_READ, offset, in, sizeof(in), 1), 0);
	assert_memory_equal(in, wanted, sizeof(in));
}

static void each_writes_for_itself_alone(void **state)
{
	static uint8_t out[4096], now[DISK_BYTES], was[DISK_BYTES];
	const char *const paths[2] = { "overlay", "other" };
	char text[300], overlay[80];
	struct disks d[2];
	struct place p;
	int fd, i;

	(void)state;
	need("qemu-nbd");
	place_new(&p);
	for (i = 0; i < 2; i++) {
		snprintf(overlay, sizeof(overlay), "%s/%s", p.dir, paths[i]);
		made(overlay, p.base);
		snprintf(text, sizeof(text), "%s,format=qcow2,backing=%s", overlay, p.base);
		disks_open(&d[i], text, false);
		memset(out, 0x70 + i, sizeof(out));
		assert_int_equal(job_run(&d[i], DISK_WRITE, 8192, out, sizeof(out), 1), 0);
	}
	for (i = 0; i < 2; i++) {
		check_block(&d[i], 8192, 0x70 + i);
		check_block(&d[i], 0, 0x11);
		assert_int_equal(job_run(&d[i], DISK_DISCARD, 65536, NULL, 65536, 0), 0);
		assert_int_equal(job_run(&d[i], DISK_ZERO, 262144, NULL, 65536, 0), 0);
		check_block(&d[i], 262144, 0);
		disks_close(&d[i]);
	}
	memset(was, 0x11, sizeof(was));
	fd = open(p.base, O_RDONLY | O_CLOEXEC);
	assert_int_equal(read(fd, now, sizeof(now)), sizeof(now));
	close(fd);
	assert_memory_equal(now, was, sizeof(was));
	place_free(&p);
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_overlay_is_an_image_over_the_disk),
		cmocka_unit_test(what_cannot_be_is_refused_and_leaves_nothing),
		cmocka_unit_test(a_disk_that_somebody_writes_to_is_refused),
		cmocka_unit_test(disks_of_any_size_have_one),
		cmocka_unit_test(only_what_was_made_is_removed),
#ifdef POSTERN_NBD
		cmocka_unit_test(each_writes_for_itself_alone),
#endif
	};

	log_set_level(LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
