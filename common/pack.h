/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pack.h - packs a protobuf message in one pass. The bytes are those of protobuf-c, whose own
 * packing visits every field of every message twice and asks each by a call whether it is empty: of
 * a list of 10,000 jobs that was 85 % of the coordinator's work. And makes texts of strangers fit
 * to be packed again. No I/O.
 */
#ifndef ACCEL_COMMON_PACK_H
#define ACCEL_COMMON_PACK_H

#include <protobuf-c/protobuf-c.h>

#include "common/arena.h"

/* The packed message, in the arena; never NULL, also when it has no bytes. Aborts without memory.
 */
uint8_t *pack_message(const ProtobufCMessage *msg, struct arena *a, size_t *ret_len);

/* Makes the strings of an unpacked message, which is ours, valid UTF-8 (make_utf8), as protobuf
 * demands: parsers of other languages refuse a whole message for one byte. protobuf-c does not
 * look. Bytes fields stay. */
void message_clean(ProtobufCMessage *msg);

#endif
