/* SPDX-License-Identifier: Apache-2.0
 * Copyright The postern authors
 *
 * Where an image is, as it is said on a command line.
 */
#ifndef POSTERN_CLI_PLACE_H
#define POSTERN_CLI_PLACE_H

/*
 * STORE/NAME (snapshot/place.h) with a folder said in full: a machine may be
 * somewhere else than who speaks to it, and one folder is to have one name. To
 * be freed; NULL: no memory.
 */
char *place_in_full(const char *place);

#endif
