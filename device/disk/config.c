// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
#include "device/disk/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ALLOWED                                                                                                        \
	"FILE or URI, then [,format=raw|qcow2][,readonly][,serial=TEXT][,reconnect=SECONDS], with NBD " \
	"[,quiesce=SECONDS], with qcow2 [,backing=FILE]... and [,data-file=FILE] are allowed; a comma of a name is written twice"

static bool begins(const char *text, const char *with)
{
	return !strncmp(text, with, strlen(with));
}

static int number_take(int *to, const char *text, int most)
{
	char *end;
	long value;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	value = strtol(text, &end, 10);
	if (errno || *end || value > most)
		return -EINVAL;
	*to = (int)value;
	return 0;
}

/* Another file of a qcow2 image's. */
static int file_take(struct disk_config *config, const char *word, struct err *err)
{
	const char *path = strchr(word, '=') + 1;
	char **to = &config->data_file;

	if (!*path)
		return err_set(err, -EINVAL, "%s: the file is missing", word);
	if (begins(word, "backing=")) {
		if (config->backings == DISK_BACKING_MAX)
			return err_set(err, -EINVAL,
				       "%s: at most %d images below another are allowed", word,
				       DISK_BACKING_MAX);
		to = &config->backing[config->backings++];
	}
	free(*to);
	*to = strdup(path);
	return *to ? 0 : err_set(err, -ENOMEM, "no memory for a disk's configuration");
}

static int disk_config_word_take(struct disk_config *config, const char *word, struct err *err)
{
	if (!strcmp(word, "readonly")) {
		config->readonly = true;
	} else if (!strcmp(word, "format=raw")) {
		config->format = DISK_FORMAT_RAW;
	} else if (!strcmp(word, "format=qcow2")) {
		config->format = DISK_FORMAT_QCOW2;
	} else if (begins(word, "format=")) {
		return err_set(err, -EINVAL, "%s: raw and qcow2 are allowed", word);
	} else if (begins(word, "serial=")) {
		if (strlen(word + 7) > DISK_SERIAL_BYTES)
			return err_set(err, -EINVAL, "%s: at most %d bytes are allowed", word,
				       DISK_SERIAL_BYTES);
		strcpy(config->serial, word + 7);
	} else if (begins(word, "reconnect=")) {
		if (number_take(&config->reconnect_s, word + 10, DISK_RECONNECT_MAX_S) < 0)
			return err_set(err, -EINVAL, "%s: 0 to %d seconds are allowed", word,
				       DISK_RECONNECT_MAX_S);
	} else if (begins(word, "backing=") || begins(word, "data-file=")) {
		return file_take(config, word, err);
	} else if (begins(word, "quiesce=")) {
		if (number_take(&config->quiesce_s, word + 8, DISK_QUIESCE_MAX_S) < 0)
			return err_set(err, -EINVAL, "%s: 0 to %d seconds are allowed", word,
				       DISK_QUIESCE_MAX_S);
	} else {
		return err_set(err, -EINVAL, "\"%s\" is not known: " ALLOWED, word);
	}
	return 0;
}

/*
 * Ends the name in place, with each double comma made one; returns what follows
 * the comma, or NULL.
 */
static char *name_end(char *text)
{
	char *from = text, *to = text;

	while (*from && (*from != ',' || from[1] == ',')) {
		from += *from == ',';
		*to++ = *from++;
	}
	if (!*from) {
		*to = '\0';
		return NULL;
	}
	*to = '\0';
	return from + 1;
}

static bool has_ending(const char *path, const char *ending)
{
	size_t len = strlen(path), n = strlen(ending);

	return len >= n && !strcasecmp(path + len - n, ending);
}

static int disk_config_check(const struct disk_config *config, struct err *err)
{
	struct nbd_address address;

	if (!*config->path)
		return err_set(err, -EINVAL, "the file is missing: " ALLOWED);
	if (config->nbd && config->format == DISK_FORMAT_QCOW2)
		return err_set(err, -EINVAL,
			       "format=qcow2 is for files: what an NBD server exports is raw");
	if (!config->nbd && config->format != DISK_FORMAT_QCOW2 && config->reconnect_s >= 0)
		return err_set(
			err, -EINVAL,
			"reconnect= is for NBD and qcow2: a raw file has no server that could go away");
	if (config->format != DISK_FORMAT_QCOW2 && (config->backings || config->data_file))
		return err_set(
			err, -EINVAL,
			"backing= and data-file= are for format=qcow2: nothing else names other files");
	if (!config->nbd && config->format == DISK_FORMAT_NONE &&
	    has_ending(config->path, ".qcow2"))
		return err_set(
			err, -EINVAL,
			"%s: its name is a qcow2 image's: format=raw or format=qcow2 has to say which of them it was made as",
			config->path);
	if (!config->nbd && config->quiesce_s >= 0)
		return err_set(
			err, -EINVAL,
			"quiesce= is for NBD: nothing else goes on with what a lost connection asked");
	return config->nbd ? nbd_address_parse(&address, config->path, err) : 0;
}

int disk_config_parse(struct disk_config *config, const char *text, struct err *err)
{
	char *at, *word;
	int r = 0;

	*config = (struct disk_config){ .path = strdup(text), .reconnect_s = -1, .quiesce_s = -1 };
	if (!config->path)
		return err_set(err, -ENOMEM, "no memory for a disk's configuration");
	at = name_end(config->path);
	config->nbd = begins(config->path, "nbd:") || begins(config->path, "nbds:") ||
		      begins(config->path, "nbd+") || begins(config->path, "nbds+");
	while (!r && at) {
		word = at;
		at = name_end(word);
		r = disk_config_word_take(config, word, err);
	}
	if (!r)
		r = disk_config_check(config, err);
	if (r < 0) {
		disk_config_fini(config);
		return err_prefix(err, r, "%.120s", text);
	}
	return 0;
}

void disk_config_fini(struct disk_config *config)
{
	while (config->backings)
		free(config->backing[--config->backings]);
	free(config->data_file);
	free(config->path);
	config->path = config->data_file = NULL;
}

/* ---- URIs ---- */

static int digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' :
	       c >= 'a' && c <= 'f' ? c - 'a' + 10 :
	       c >= 'A' && c <= 'F' ? c - 'A' + 10 :
				      -1;
}

/* [from, end) without percent-encoding. A byte of 0 would end it early: refused. */
static int disk_config_decode(char *to, size_t room, const char *from, const char *end,
			      const char *what, struct err *err)
{
	size_t n = 0;

	while (from < end) {
		int c = (unsigned char)*from++;

		if (c == '%') {
			int high = end - from >= 2 ? digit(from[0]) : -1,
			    low = high >= 0 ? digit(from[1]) : -1;

			c = high * 16 + low;
			if (low < 0 || !c)
				return err_set(
					err, -EINVAL,
					"%s: %% is to be followed by two hexadecimal digits, not 00",
					what);
			from += 2;
		}
		if (n + 1 >= room)
			return err_set(err, -EINVAL, "%s: longer than %zu bytes", what, room - 1);
		to[n++] = (char)c;
	}
	to[n] = '\0';
	return 0;
}

static const char *disk_config_find(const char *from, const char *end, char c)
{
	const char *at = memchr(from, c, (size_t)(end - from));

	return at ? at : end;
}

/* HOST[:PORT], [IPV6][:PORT] */
static int authority(struct nbd_address *address, const char *from, const char *end,
		     struct err *err)
{
	const char *host_end, *port;
	long value;

	if (disk_config_find(from, end, '@') != end)
		return err_set(err, -EINVAL,
			       "a user's name is of use with TLS alone, which is not supported");
	if (from < end && *from == '[') {
		host_end = disk_config_find(++from, end, ']');
		if (host_end == end)
			return err_set(err, -EINVAL, "the ] is missing");
		port = host_end + 1;
	} else {
		port = host_end = disk_config_find(from, end, ':');
	}
	if (disk_config_decode(address->host, sizeof(address->host), from, host_end, "host",
			       err) < 0)
		return -EINVAL;
	if (!*address->host)
		return err_set(err, -EINVAL, "the host is missing");
	strcpy(address->port, "10809");
	if (port == end)
		return 0;
	if (*port != ':' || disk_config_decode(address->port, sizeof(address->port), port + 1, end,
					       "port", err) < 0)
		return err_set(err, -EINVAL, "the port is not a number of 1 to 65535");
	value = strspn(address->port, "0123456789") == strlen(address->port) ? atol(address->port) :
									       0;
	if (value < 1 || value > 65535)
		return err_set(err, -EINVAL, "the port is not a number of 1 to 65535");
	return 0;
}

static int query(struct nbd_address *address, bool local, const char *from, const char *end,
		 struct err *err)
{
	const char *next;

	for (; from < end; from = next < end ? next + 1 : end) {
		next = disk_config_find(from, end, '&');
		if (!local || next - from < 7 || memcmp(from, "socket=", 7) != 0)
			return err_set(
				err, -EINVAL,
				"%.*s: only socket=PATH is allowed behind the ?, and with nbd+unix:",
				(int)(next - from), from);
		if (disk_config_decode(address->socket, sizeof(address->socket), from + 7, next,
				       "socket", err) < 0)
			return -EINVAL;
	}
	if (local && !*address->socket)
		return err_set(err, -EINVAL, "?socket=PATH is missing");
	return 0;
}

int nbd_address_parse(struct nbd_address *address, const char *uri, struct err *err)
{
	bool local = begins(uri, "nbd+unix://");
	const char *end = uri + strlen(uri), *path, *ask;

	memset(address, 0, sizeof(*address));
	if (!local && !begins(uri, "nbd://"))
		return err_set(err, -EINVAL,
			       "nbd://HOST[:PORT][/EXPORT] and nbd+unix:///[EXPORT]?socket=PATH are allowed; for TLS use a tunnel");
	uri += strlen(local ? "nbd+unix://" : "nbd://");
	if (disk_config_find(uri, end, '#') != end)
		return err_set(err, -EINVAL,
			       "# has no meaning here: %%23 for one that belongs to a name");
	ask = disk_config_find(uri, end, '?');
	path = disk_config_find(uri, ask, '/');
	if (local && path != uri)
		return err_set(err, -EINVAL, "nbd+unix: has no host: three slashes");
	if (!local && authority(address, uri, path, err) < 0)
		return -EINVAL;
	if (path < ask && disk_config_decode(address->export_name, sizeof(address->export_name),
					     path + 1, ask, "export", err) < 0)
		return -EINVAL;
	return query(address, local, ask < end ? ask + 1 : end, end, err);
}
