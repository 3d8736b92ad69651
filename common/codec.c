/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lengths before messages. The reader trusts nothing: memory grows with the bytes that came, not
 * with the length that was announced. It parses no message; that is the caller's.
 */
#include "common/codec.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define READER_KEEP_BYTES  (1u << 20) /* an empty reader with more memory than this gives it back */
#define READER_SLACK_BYTES 65536u     /* consumed bytes in front that are not worth a move */

static void *memory_alloc(void *data, size_t size)
{
    (void)data;
    return xrealloc(NULL, size);
}

static void memory_free(void *data, void *p)
{
    (void)data;
    free(p);
}

ProtobufCAllocator codec_memory = {.alloc = memory_alloc, .free = memory_free};

static void put_header(uint8_t *p, size_t len)
{
    CHECK(len <= UINT32_MAX);
    for (int i = 0; i < CODEC_HEADER_BYTES; i++) {
        p[i] = (uint8_t)(len >> (8 * i));
    }
}

static size_t get_header(const uint8_t *p)
{
    return (size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;
}

/* A protobuf-c buffer that writes into a str: one pass, no copy, no second buffer. */
struct str_sink {
    ProtobufCBuffer base;
    struct str *out;
};

static void append_to_str(ProtobufCBuffer *buffer, size_t len, const uint8_t *data)
{
    str_add(CONTAINER_OF(buffer, struct str_sink, base)->out, data, len);
}

void codec_add(struct str *out, const ProtobufCMessage *msg)
{
    uint8_t header[CODEC_HEADER_BYTES] = {0};
    size_t start = out->len;
    struct str_sink sink = {.base = {.append = append_to_str}, .out = out};
    str_add(out, header, sizeof(header));
    size_t len = protobuf_c_message_pack_to_buffer(msg, &sink.base);
    CHECK(out->len - start - CODEC_HEADER_BYTES == len);
    put_header((uint8_t *)out->data + start, len);
}

void codec_add_bytes(struct str *out, const void *p, size_t len)
{
    uint8_t header[CODEC_HEADER_BYTES];
    put_header(header, len);
    str_add(out, header, sizeof(header));
    str_add(out, p, len);
}

/* ---- reader ---- */

void codec_reader_init(struct codec_reader *rd, size_t cap_bytes)
{
    *rd = (struct codec_reader){.cap_bytes = cap_bytes};
    str_init(&rd->buf);
}

void codec_reader_done(struct codec_reader *rd)
{
    str_done(&rd->buf);
    rd->pos = 0;
}

static void drop_consumed(struct codec_reader *rd)
{
    if (rd->pos == rd->buf.len) {
        if (rd->buf.cap > READER_KEEP_BYTES) {
            str_done(&rd->buf);
            str_init(&rd->buf);
        }
        str_clear(&rd->buf);
        rd->pos = 0;
    } else if (rd->pos > READER_SLACK_BYTES && rd->pos > rd->buf.len / 2) {
        /* At most as many bytes are moved as were consumed: linear in all. */
        str_drop_front(&rd->buf, rd->pos);
        rd->pos = 0;
    }
}

void codec_reader_feed(struct codec_reader *rd, const void *p, size_t len)
{
    drop_consumed(rd);
    str_add(&rd->buf, p, len);
}

int codec_reader_next(struct codec_reader *rd, const uint8_t **ret_data, size_t *ret_len)
{
    drop_consumed(rd);
    const uint8_t *p = (const uint8_t *)rd->buf.data + rd->pos;
    size_t have = rd->buf.len - rd->pos;
    if (have < CODEC_HEADER_BYTES) {
        return 0;
    }
    size_t len = get_header(p);
    if (len > rd->cap_bytes) {
        return ACCEL_EPROTO;
    }
    if (have - CODEC_HEADER_BYTES < len) {
        return 0;
    }
    rd->pos += CODEC_HEADER_BYTES + len;
    *ret_data = p + CODEC_HEADER_BYTES;
    *ret_len = len;
    return 1;
}

/* ---- blocking input and output ---- */

static int io_failed(struct accel_error *err, int sys, const char *what)
{
    int code = sys == EPIPE || sys == ECONNRESET ? ACCEL_ECLOSED : ACCEL_EIO;
    error_sys(err, sys, "%s", what);
    if (err != NULL) {
        err->code = code;
    }
    return code;
}

int codec_write_all(int fd, const void *p, size_t len, struct accel_error *err)
{
    const uint8_t *next = p;
    bool is_socket = true;
    while (len > 0) {
        ssize_t n = is_socket ? send(fd, next, len, MSG_NOSIGNAL) : write(fd, next, len);
        if (n < 0 && errno == ENOTSOCK && is_socket) {
            is_socket = false;
        } else if (n < 0 && errno != EINTR) {
            return io_failed(err, errno, "write");
        } else if (n > 0) {
            next += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

/* Reads len bytes or up to the end of the stream; the count, or ACCEL_E*. */
static ssize_t read_up_to(int fd, uint8_t *p, size_t len, struct accel_error *err)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = read(fd, p + done, len - done);
        if (n == 0) {
            break;
        }
        if (n < 0 && errno != EINTR) {
            return io_failed(err, errno, "read");
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return (ssize_t)done;
}

int codec_read_frame(int fd, size_t cap_bytes, uint8_t **ret_data, size_t *ret_len,
                     struct accel_error *err)
{
    uint8_t header[CODEC_HEADER_BYTES];
    ssize_t n = read_up_to(fd, header, sizeof(header), err);
    if (n < 0) {
        return (int)n;
    }
    if (n == 0) {
        return error_set(err, ACCEL_ECLOSED, "the other side has closed the connection");
    }
    if ((size_t)n < sizeof(header)) {
        return error_set(err, ACCEL_EPROTO, "the stream ends within the length of a frame");
    }
    size_t len = get_header(header);
    if (len > cap_bytes) {
        return error_set(err, ACCEL_EPROTO, "a frame of %zu bytes, at most %zu are allowed", len,
                         cap_bytes);
    }
    AUTO_FREE uint8_t *data = malloc(len + 1);
    if (data == NULL) {
        return error_set(err, ACCEL_ENOMEM, "no memory for a frame of %zu bytes", len);
    }
    n = read_up_to(fd, data, len, err);
    if (n < 0) {
        return (int)n;
    }
    if ((size_t)n < len) {
        return error_set(err, ACCEL_EPROTO, "the stream ends after %zd of %zu bytes of a frame", n,
                         len);
    }
    data[len] = 0;
    *ret_data = STEAL_PTR(data);
    *ret_len = len;
    return 0;
}
