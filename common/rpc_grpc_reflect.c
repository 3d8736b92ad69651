/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reflection: what our services and messages look like, for clients that were built without our
 * .proto files. The descriptors are a packed google.protobuf.FileDescriptorSet that protoc made and
 * the build put into the module; a few of its fields are read here by hand (descriptor.proto is
 * proto2, and large). Field numbers are those of descriptor.proto.
 */
#include <string.h>

#include "common/rpc_grpc_internal.h"
#include "grpc/reflection/v1/reflection.pb-c.h"

#define SERVICES_MAX 64u /* more than there are; the rest would not be listed */

extern const unsigned char accel_descriptors[];
extern const size_t accel_descriptors_len;

enum { FILE_NAME = 1, FILE_PACKAGE = 2, FILE_MESSAGE = 4, FILE_ENUM = 5, FILE_SERVICE = 6 };

struct bytes {
    const uint8_t *p;
    size_t len;
};

/* --- reading what protoc wrote; it is our own and well-formed, yet ends are checked --- */

static bool take_varint(struct bytes *in, uint64_t *ret_value)
{
    uint64_t v = 0;
    for (unsigned shift = 0; in->len > 0 && shift < 64; shift += 7) {
        uint8_t b = *in->p++;
        in->len--;
        v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80)) {
            *ret_value = v;
            return true;
        }
    }
    return false;
}

/* The next field with bytes in it; others are passed over. */
static bool take_field(struct bytes *in, unsigned *ret_number, struct bytes *ret_value)
{
    uint64_t key, v;
    while (take_varint(in, &key)) {
        if ((key & 7) == 0) {
            if (!take_varint(in, &v))
                return false;
            continue;
        }
        if ((key & 7) != 2 || !take_varint(in, &v) || v > in->len)
            return false;
        *ret_number = (unsigned)(key >> 3);
        *ret_value = (struct bytes){in->p, (size_t)v};
        in->p += v;
        in->len -= v;
        return true;
    }
    return false;
}

static struct bytes get_field(struct bytes in, unsigned wanted)
{
    unsigned number;
    struct bytes value;
    while (take_field(&in, &number, &value))
        if (number == wanted)
            return value;
    return (struct bytes){(const uint8_t *)"", 0};
}

/* Takes PREFIX and a dot (if PREFIX is not empty) and NAME off the front of *symbol. */
static bool skip_name(const char **symbol, struct bytes name)
{
    if (name.len == 0 || strncmp(*symbol, (const char *)name.p, name.len) != 0)
        return false;
    char end = (*symbol)[name.len];
    if (end != 0 && end != '.')
        return false;
    *symbol += name.len + (end == '.');
    return true;
}

/* A service, message or enum of this file, or something in one of them. */
static bool has_symbol(struct bytes file, const char *symbol)
{
    unsigned number;
    struct bytes value;
    if (!skip_name(&symbol, get_field(file, FILE_PACKAGE)))
        return false;
    while (take_field(&file, &number, &value)) {
        const char *rest = symbol;
        if ((number == FILE_MESSAGE || number == FILE_ENUM || number == FILE_SERVICE) &&
            skip_name(&rest, get_field(value, 1)))
            return true;
    }
    return false;
}

static bool has_name(struct bytes file, const char *name)
{
    struct bytes n = get_field(file, FILE_NAME);
    return n.len == strlen(name) && memcmp(n.p, name, n.len) == 0;
}

static bool find_file(const char *text, bool (*is_it)(struct bytes, const char *),
                      struct bytes *ret_file)
{
    struct bytes set = {accel_descriptors, accel_descriptors_len};
    unsigned number;
    while (take_field(&set, &number, ret_file))
        if (is_it(*ret_file, text))
            return true;
    return false;
}

/* "PACKAGE.NAME" of every service; the texts are of one allocation each. */
static size_t list_services(char **names)
{
    struct bytes set = {accel_descriptors, accel_descriptors_len}, file, value;
    unsigned number;
    size_t count = 0;
    while (take_field(&set, &number, &file)) {
        struct bytes package = get_field(file, FILE_PACKAGE);
        while (take_field(&file, &number, &value)) {
            if (number != FILE_SERVICE || count == SERVICES_MAX)
                continue;
            struct bytes name = get_field(value, 1);
            char *text = xcalloc(1, package.len + name.len + 2);
            memcpy(text, package.p, package.len);
            text[package.len] = '.';
            memcpy(text + package.len + 1, name.p, name.len);
            names[count++] = text;
        }
    }
    return count;
}

/* --- answers --- */

typedef Grpc__Reflection__V1__ServerReflectionRequest Request;
typedef Grpc__Reflection__V1__ServerReflectionResponse Response;

static void send_response(struct wire_service_state *s, uint64_t call, const Request *rq,
                          Response *rp)
{
    size_t len;
    rp->valid_host = rq->host;
    rp->original_request = (Request *)rq;
    len = protobuf_c_message_get_packed_size(&rp->base);
    AUTO_FREE uint8_t *buf = xrealloc(NULL, len + 1);
    protobuf_c_message_pack(&rp->base, buf);
    rpc_server_send(s->server, call, buf, len);
}

static void send_error(struct wire_service_state *s, uint64_t call, const Request *rq, int code,
                       const char *text)
{
    Response rp = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    Grpc__Reflection__V1__ErrorResponse e = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
    e.error_code = (int32_t)accel_error_to_grpc(code);
    e.error_message = (char *)text;
    rp.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    rp.error_response = &e;
    send_response(s, call, rq, &rp);
}

static void send_file(struct wire_service_state *s, uint64_t call, const Request *rq,
                      struct bytes file)
{
    Response rp = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    Grpc__Reflection__V1__FileDescriptorResponse f =
        GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    ProtobufCBinaryData data = {file.len, (uint8_t *)file.p};
    f.n_file_descriptor_proto = 1;
    f.file_descriptor_proto = &data;
    rp.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    rp.file_descriptor_response = &f;
    send_response(s, call, rq, &rp);
}

static void send_services(struct wire_service_state *s, uint64_t call, const Request *rq)
{
    Response rp = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
    Grpc__Reflection__V1__ListServiceResponse l = GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    Grpc__Reflection__V1__ServiceResponse services[SERVICES_MAX], *pointers[SERVICES_MAX];
    char *names[SERVICES_MAX];
    l.n_service = list_services(names);
    l.service = pointers;
    for (size_t i = 0; i < l.n_service; i++) {
        grpc__reflection__v1__service_response__init(&services[i]);
        services[i].name = names[i];
        pointers[i] = &services[i];
    }
    rp.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    rp.list_services_response = &l;
    send_response(s, call, rq, &rp);
    for (size_t i = 0; i < l.n_service; i++)
        free(names[i]);
}

static void answer(struct wire_service_state *s, uint64_t call, const Request *rq)
{
    struct bytes file;
    switch (rq->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        send_services(s, call, rq);
        return;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        if (find_file(rq->file_by_filename, has_name, &file))
            send_file(s, call, rq, file);
        else
            send_error(s, call, rq, ACCEL_ENOENT, "there is no such file");
        return;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        if (find_file(rq->file_containing_symbol, has_symbol, &file))
            send_file(s, call, rq, file);
        else
            send_error(s, call, rq, ACCEL_ENOENT, "there is no such symbol");
        return;
    default: send_error(s, call, rq, ACCEL_EUNIMPL, "this is not answered here"); return;
    }
}

void wire_reflect(void *ctx, const struct rpc_event *ev)
{
    struct wire_service_state *s = ctx;
    if (ev->msg)
        answer(s, ev->call, (const Request *)ev->msg);
    else if (ev->type == RPC_HALF_CLOSE)
        rpc_server_end(s->server, ev->call, NULL, 0, 0, NULL);
}
