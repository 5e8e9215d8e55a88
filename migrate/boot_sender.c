// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "migrate/boot_sender.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <xxhash.h>

#define FILES 2

struct boot_sender {
	struct loop *loop;
	struct link *link;
	void (*failed)(void *arg, const struct err *err);
	void *arg;
	struct boot_opened opened;
	/* kernel and initial RAM disk; NULL: there is no such file */
	const struct ram_file *file[FILES];
	struct timespec changed[FILES];		/* when it last was, before it was read */
	uint64_t sum[FILES];
	XXH3_state_t *hash;		/* of the file that is being read */
	unsigned int at;		/* which one that is */
	uint64_t file_done, sent;	/* bytes of it, and of both */
	uint8_t *piece;
	size_t piece_len;
	uv_fs_t request;
	bool busy;		/* a read is under way */
	bool closed, done;
};

static void sender_drop(struct boot_sender *s)
{
	boot_opened_close(&s->opened);
	XXH3_freeState(s->hash);
	free(s->piece);
	free(s);
}

static void sender_fail(struct boot_sender *s, const struct err *err)
{
	s->done = true;
	s->failed(s->arg, err);
}

/* Part of one version and part of another make a kernel that nobody has built. */
static int check_unchanged(const struct boot_sender *s, struct err *err)
{
	const struct timespec *changed = &s->changed[s->at];
	const struct ram_file *file = s->file[s->at];
	struct stat st;

	if (fstat(file->fd, &st) < 0)
		return err_errno(err, -errno, "%s", file->path);
	if ((uint64_t)st.st_size == file->len && st.st_mtim.tv_sec == changed->tv_sec &&
	    st.st_mtim.tv_nsec == changed->tv_nsec)
		return 0;
	return err_set(err, -EAGAIN,
		       "%s was changed while it was sent along: migrate again when it is whole",
		       file->path);
}

static int boot_sender_file_end(struct boot_sender *s, struct err *err)
{
	int r = check_unchanged(s, err);

	s->sum[s->at] = XXH3_64bits_digest(s->hash);
	XXH3_64bits_reset(s->hash);
	s->file_done = 0;
	s->at++;
	return r;
}

static size_t piece_wanted(const struct boot_sender *s)
{
	uint64_t left = s->file[s->at]->len - s->file_done;

	return left < BOOT_PIECE_BYTES ? (size_t)left : BOOT_PIECE_BYTES;
}

static void piece_send(struct boot_sender *s)
{
	Postern__Wire__BootData data = POSTERN__WIRE__BOOT_DATA__INIT;

	data.offset = s->sent;
	data.data.data = s->piece;
	data.data.len = s->piece_len;
	XXH3_64bits_update(s->hash, s->piece, s->piece_len);
	s->sent += s->piece_len;
	s->file_done += s->piece_len;
	s->piece_len = 0;
	link_send(s->link, WIRE(BOOT_DATA), &data);
}

static void boot_sender_on_read(uv_fs_t *request)
{
	struct boot_sender *s = request->data;
	ssize_t n = request->result;
	struct err err;

	uv_fs_req_cleanup(request);
	s->busy = false;
	if (s->closed) {
		sender_drop(s);
		return;
	}
	if (n <= 0) {
		err_errno(&err, n ? (int)n : -EIO,
			  "%s, which was to be sent along: it cannot be read to its end; migrate "
			  "again when it "
			  "is whole", s->file[s->at]->path);
		sender_fail(s, &err);
		return;
	}
	s->piece_len += (size_t)n;
	if (s->piece_len == piece_wanted(s))
		piece_send(s);
	boot_sender_go_on(s);
}

static void piece_read(struct boot_sender *s)
{
	uv_buf_t buf = uv_buf_init((char *)s->piece + s->piece_len,
				   (unsigned int)(piece_wanted(s) - s->piece_len));
	struct err err;
	int r;

	s->request.data = s;
	r = uv_fs_read(loop_uv(s->loop), &s->request, s->file[s->at]->fd, &buf, 1,
		       (int64_t)(s->file_done + s->piece_len), boot_sender_on_read);
	s->busy = !r;
	if (r < 0) {
		err_errno(&err, r, "%s: read", s->file[s->at]->path);
		sender_fail(s, &err);
	}
}

void boot_sender_go_on(struct boot_sender *s)
{
	Postern__Wire__BootEnd end = POSTERN__WIRE__BOOT_END__INIT;
	struct err err;

	if (s->busy || s->done || link_queued(s->link))
		return;
	if (s->at < FILES && s->file[s->at] && s->file_done == s->file[s->at]->len &&
	    boot_sender_file_end(s, &err) < 0) {
		sender_fail(s, &err);
		return;
	}
	if (s->at < FILES && s->file[s->at]) {
		piece_read(s);
		return;
	}
	s->done = true;
	end.kernel_xxh3 = s->sum[0];
	end.initrd_xxh3 = s->sum[1];
	link_send(s->link, WIRE(BOOT_END), &end);
}

uint64_t boot_sender_sent(const struct boot_sender *s)
{
	return s->sent;
}

bool boot_sender_is_done(const struct boot_sender *s)
{
	return s->done;
}

/* ---- life ---- */

static void say_boot(struct boot_sender *s, const struct boot_files *files)
{
	Postern__Wire__Boot boot = POSTERN__WIRE__BOOT__INIT;

	boot.kernel_bytes = s->file[0] ? s->file[0]->len : 0;
	boot.initrd_bytes = s->file[1] ? s->file[1]->len : 0;
	boot.has_cmdline = files->cmdline != NULL;
	if (files->cmdline)
		boot.cmdline = files->cmdline;
	boot.has_append = files->append != NULL;
	if (files->append)
		boot.append = files->append;
	link_send(s->link, WIRE(BOOT), &boot);
}

static int boot_sender_files_open(struct boot_sender *s, const struct boot_files *files,
				  struct err *err)
{
	struct stat st;
	int r;

	if (files->type != BOOT_FILES)
		return 0;
	r = boot_files_open(files, &s->opened, err);
	if (r < 0) {
		err_prefix(err, r,
			   "what the guest is to reboot with cannot be sent along (put it back, or "
			   "start the destination with "
			   "--kernel)");
		return r;
	}
	s->file[0] = &s->opened.kernel;
	s->file[1] = s->opened.has_initrd ? &s->opened.initrd : NULL;
	for (s->at = 0; s->at < FILES && s->file[s->at]; s->at++)
		if (!fstat(s->file[s->at]->fd, &st))
			s->changed[s->at] = st.st_mtim;
	s->at = 0;
	return 0;
}

int boot_sender_new(struct boot_sender **out, struct loop *loop, struct link *link,
		    const struct boot_files *files,
		    void (*failed)(void *arg, const struct err *err), void *arg, struct err *err)
{
	struct boot_sender *s = calloc(1, sizeof(*s));
	int r;

	if (!s)
		return err_set(err, -ENOMEM, "no memory to send a kernel");
	*s = (struct boot_sender){ .loop = loop, .link = link, .failed = failed, .arg = arg };
	s->opened = (struct boot_opened){ .kernel.fd = -1, .initrd.fd = -1 };
	s->piece = malloc(BOOT_PIECE_BYTES);
	s->hash = XXH3_createState();
	r = s->piece && s->hash ? boot_sender_files_open(s, files, err) :
		err_set(err, -ENOMEM, "no memory to send a kernel");
	if (r < 0) {
		sender_drop(s);
		return r;
	}
	XXH3_64bits_reset(s->hash);
	say_boot(s, files);
	*out = s;
	boot_sender_go_on(s);
	return 0;
}

void boot_sender_free(struct boot_sender *s)
{
	if (!s)
		return;
	s->closed = true;
	if (!s->busy)
		sender_drop(s);
}
