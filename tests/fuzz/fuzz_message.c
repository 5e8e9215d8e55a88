// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
// A peer's control messages, and the texts in them.
#include <string.h>

#include "migrate/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char text[PEER_TEXT_BYTES];
	wire_message *message = message_unpack(data, size, NULL);

	if (!message)
		return 0;
	message_name(message->body_case);
	if (message->body_case == WIRE(HELLO_REPLY))
		message_peer_text(text, message->hello_reply->error);
	message_free(message);
	return 0;
}
