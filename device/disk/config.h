/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * What a user says of a disk:
 * FILE|URI[,format=raw|qcow2][,readonly][,serial=TEXT][,reconnect=SECONDS], of
 * an NBD server also [,quiesce=SECONDS], and of a qcow2 image
 * [,backing=FILE]... and [,data-file=FILE]. A comma of a file's name is written
 * twice.
 *
 * The format is never guessed. A guest that has a raw disk can write what it
 * likes to its start, a qcow2 header too, one that names a file of the host as
 * what lies below: whoever then took the disk for qcow2 would hand that file to
 * the guest. So a file is raw unless format=qcow2 says otherwise, and one that
 * looks like qcow2, by its name or by its first bytes, is refused until format=
 * says which of the two it is.
 */
#ifndef POSTERN_DEVICE_DISK_CONFIG_H
#define POSTERN_DEVICE_DISK_CONFIG_H

#include <stdbool.h>

#include "base/err.h"

/* What VIRTIO_BLK_T_GET_ID returns (virtio 1.2, 5.2.6). */
#define DISK_SERIAL_BYTES 20
#define DISK_RECONNECT_MAX_S (7 * 24 * 3600)
/* Images below an image. */
#define DISK_BACKING_MAX 6
/*
 * What is assumed where nothing is said: of a server that has ended its
 * connection, and of one that has fallen silent, whose requests may still be on
 * their way, too (Linux gives up a request of a SCSI disk after as long).
 */
#define DISK_QUIESCE_ENDED_S 5
#define DISK_QUIESCE_SILENT_S 30
#define DISK_QUIESCE_MAX_S 3600
/* The protocol's bound on strings. */
#define NBD_NAME_BYTES 4096

enum disk_format { DISK_FORMAT_NONE, DISK_FORMAT_RAW, DISK_FORMAT_QCOW2 };

struct disk_config {
	char *path;			/* or URI; on the heap */
	bool nbd;			/* it is a URI */
	char *backing[DISK_BACKING_MAX];	/* of a qcow2 image: those below it, the next first; on the heap */
	unsigned int backings;
	char *data_file;		/* what has its data; NULL: itself; on the heap */
	enum disk_format format;	/* NONE: not said */
	bool readonly;
	int quiesce_s;			/* how long a server may be at work with what a lost connection asked; -1: not said */
	int reconnect_s;		/* how long requests wait for a server that has gone; -1: for ever */
	char serial[DISK_SERIAL_BYTES + 1];	/* may be empty */
};

/*
 * -EINVAL: the error says what is allowed; -ENOMEM. On an error nothing is to
 * be freed. Opens nothing.
 */
int disk_config_parse(struct disk_config *config, const char *text, struct err *err);
void disk_config_fini(struct disk_config *config);

/*
 * A server's address, out of nbd://HOST[:PORT][/EXPORT] or
 * nbd+unix://[/EXPORT]?socket=PATH; percent-encoding is undone.
 */
struct nbd_address {
	char host[256], port[8];	/* host empty: a unix socket */
	char socket[108];
	char export_name[NBD_NAME_BYTES + 1];
};

/* -EINVAL with what is wrong with it. */
int nbd_address_parse(struct nbd_address *address, const char *uri, struct err *err);

#endif
