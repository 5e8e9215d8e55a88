// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * Who can reach a unix socket, its permissions say; who was handed a connected descriptor,
 * whoever handed it. A TCP port can be reached by anybody, also one that we were handed as a
 * listening descriptor.
 */
#include "migrate/trust.h"

#include <errno.h>
#include <sys/socket.h>

#include "base/log.h"

/* Can strangers be at the other end? */
static bool is_open(const struct uri *uri, bool listening)
{
	int domain = AF_UNSPEC;
	socklen_t len = sizeof(domain);

	if (uri->type != URI_FD)
		return uri->type == URI_TCP;
	/* What is no socket at all is refused elsewhere. */
	return listening && uri->nfd == 1 &&
	       !getsockopt(uri->fd[0], SOL_SOCKET, SO_DOMAIN, &domain, &len) && domain != AF_UNIX;
}

int migration_trust_read(struct migration_trust *trust, const char *secret_file, bool insecure,
			 struct err *err)
{
	*trust = (struct migration_trust){ .insecure = insecure };
	if (secret_file && insecure)
		return err_set(err, -EINVAL,
			       "a secret file and insecure: only one of them is allowed");
	return secret_file ? secret_load(&trust->secret, secret_file, err) : 0;
}

void trust_warn(const struct migration_trust *trust, const struct uri *uri)
{
	if (!trust->secret.given && is_open(uri, true))
		log_warn(
			"migration: everybody who can reach this port can bring a guest (--insecure)");
}

int trust_check(const struct migration_trust *trust, const struct uri *uri, bool listening,
		struct err *err)
{
	const char *why = listening ? "over TCP anybody could bring a guest, or take part in one" :
		"over TCP anybody could pose as the destination and be given the guest";

	if (trust->secret.given || trust->insecure || !is_open(uri, listening))
		return 0;
	return err_set(
		err, -EINVAL,
		"%s: give both sides the same --secret-file FILE (to postern run, or to "
		"postern ctl's command; in QMP x-postern-secret-file), or use unix:PATH; or say --insecure "
		"(x-postern-insecure) where everybody who can reach the port is trusted",
		why);
}
