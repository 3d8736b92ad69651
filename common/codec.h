/* SPDX-License-Identifier: Apache-2.0 */
/*
 * codec.h - frames on a byte stream: a length (u32, little endian) before each packed message. No
 * I/O of its own except codec_write_all/codec_read_frame, which are for blocking sockets (the start
 * of acceld, tests).
 */
#ifndef ACCEL_COMMON_CODEC_H
#define ACCEL_COMMON_CODEC_H

#include <protobuf-c/protobuf-c.h>

#include "common/error.h"
#include "common/str.h"

#define CODEC_HEADER_BYTES 4

/* For the unpack functions of protobuf-c: aborts when memory ends, so that a NULL always means data
 * that cannot be decoded; with their own allocator it may mean either. Frees what NULL allocates
 * and the other way round: free_unpacked(message, NULL) is right for both. */
extern ProtobufCAllocator codec_memory;

/* Appends one frame with the packed message. Aborts when memory ends. */
void codec_add(struct str *out, const ProtobufCMessage *msg);
/* Appends one frame with the given bytes. */
void codec_add_bytes(struct str *out, const void *p, size_t len);

struct codec_reader {
    struct str buf;
    size_t pos;       /* of the first unread byte in buf */
    size_t cap_bytes; /* of one frame */
};
void codec_reader_init(struct codec_reader *r, size_t cap_bytes);
void codec_reader_done(struct codec_reader *r);
void codec_reader_feed(struct codec_reader *r, const void *p, size_t len);
/* 1: *ret_data and *ret_len give at the next frame's content, valid until the next call on r; 0:
 * more bytes are needed; ACCEL_EPROTO: a frame above the cap (the stream is useless from here). */
int codec_reader_next(struct codec_reader *r, const uint8_t **ret_data, size_t *ret_len);

/* Blocking. Writes all (EINTR and short writes handled, MSG_NOSIGNAL on sockets); ACCEL_ECLOSED on
 * EPIPE, else ACCEL_EIO. */
int codec_write_all(int fd, const void *p, size_t len, struct accel_error *err);
/* Blocking. Reads one frame; caller frees *ret_data. ACCEL_ECLOSED at a clean end of stream. */
int codec_read_frame(int fd, size_t cap_bytes, uint8_t **ret_data, size_t *ret_len,
                     struct accel_error *err);

#endif
