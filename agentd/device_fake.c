/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices as a text file says, for tests and for trying things out without the hardware. Its
 * directory is watched, because editors and tests replace a file by rename. Neighbour: device.c.
 */
#include <fcntl.h>
#include <string.h>

#include "agentd/device.h"
#include "common/path.h"
#include "common/str.h"

struct device_fake {
    struct device_source source;
    uv_fs_event_t watch;
    char *path;
    char *base; /* into path */
    void (*on_change)(void *ctx);
    void *ctx;
};

/* ---- the file ---- */

struct cursor { /* one line */
    const char *name, *line, *at, *end;
    unsigned number;
    struct arena *arena;
    struct accel_error *err;
};

static int fail(const struct cursor *c, const char *at, const char *what)
{
    return error_set(c->err, ACCEL_EINVAL, "%s:%u:%d: %s", c->name, c->number,
                     (int)(at - c->line) + 1, what);
}

static void skip_blanks(struct cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t'))
        c->at++;
}

/* The next word, NULL at the end of the line or at a comment; *ret_at is where it stands. */
static char *next_word(struct cursor *c, const char **ret_at)
{
    skip_blanks(c);
    *ret_at = c->at;
    if (c->at == c->end || *c->at == '#')
        return NULL;
    while (c->at < c->end && *c->at != ' ' && *c->at != '\t')
        c->at++;
    char *word = arena_alloc(c->arena, (size_t)(c->at - *ret_at) + 1);
    memcpy(word, *ret_at, (size_t)(c->at - *ret_at));
    return word;
}

static int parse_field(struct cursor *c, Accel__V1__Device *d, char *word, const char *at)
{
    if (strncmp(word, "model=", 6) == 0) {
        d->model = word + 6;
    } else if (strncmp(word, "visible=", 8) == 0) {
        d->visible = word + 8;
    } else if (strncmp(word, "memory=", 7) == 0) {
        if (parse_bytes(word + 7, &d->memory_bytes) < 0)
            return fail(c, at + 7, "memory= needs a number of bytes, as 80G");
    } else if (strncmp(word, "fault=", 6) == 0) { /* the rest of the line, blanks and all */
        const char *end = c->end;
        while (end > at + 6 && (end[-1] == ' ' || end[-1] == '\t'))
            end--;
        d->fault = arena_alloc(c->arena, (size_t)(end - at - 6) + 1);
        memcpy(d->fault, at + 6, (size_t)(end - at - 6));
        c->at = c->end;
        if (!d->fault[0])
            return fail(c, at + 6, "fault= needs a text");
    } else {
        return fail(c, at, "none of model=, memory=, visible=, fault=");
    }
    return 0;
}

/* 1 with a device, 0 for a line without one. */
static int parse_line(struct cursor *c, Accel__V1__Device **ret_device)
{
    const char *at;
    char *word = next_word(c, &at);
    if (!word)
        return 0;
    Accel__V1__Device *d = ARENA_NEW(c->arena, Accel__V1__Device);
    accel__v1__device__init(d);
    if (strcmp(word, "cpu") == 0)
        d->kind = ACCEL__V1__DEVICE_KIND__DEVICE_CPU;
    else if (strcmp(word, "gpu") == 0)
        d->kind = ACCEL__V1__DEVICE_KIND__DEVICE_GPU;
    else
        return fail(c, at, "a line begins with cpu or gpu");
    d->id = next_word(c, &at);
    if (!d->id)
        return fail(c, at, "the id of the device is missing");
    if (strchr(d->id, '='))
        return fail(c, at, "the id of the device comes before its fields");
    while ((word = next_word(c, &at))) {
        int r = parse_field(c, d, word, at);
        if (r < 0)
            return r;
    }
    if (d->kind == ACCEL__V1__DEVICE_KIND__DEVICE_GPU && !d->visible[0])
        d->visible = strncmp(d->id, "gpu:", 4) == 0 ? d->id + 4 : d->id;
    *ret_device = d;
    return 1;
}

int device_fake_parse(const char *name, const char *text, struct arena *a,
                      Accel__V1__Device ***ret_devices, size_t *ret_count, struct accel_error *err)
{
    struct cursor c = {.name = name, .line = text, .arena = a, .err = err};
    Accel__V1__Device **devices = ARENA_ARRAY(a, Accel__V1__Device *, DEVICE_COUNT_MAX);
    size_t count = 0;
    while (*c.line) {
        Accel__V1__Device *d = NULL;
        c.number++;
        c.at = c.line;
        c.end = c.line + strcspn(c.line, "\n");
        int r = parse_line(&c, &d);
        if (r < 0)
            return r;
        for (size_t i = 0; r > 0 && i < count; i++) {
            if (strcmp(devices[i]->id, d->id) == 0)
                return fail(&c, c.line, "this id was given before");
        }
        if (r > 0 && count == DEVICE_COUNT_MAX)
            return fail(&c, c.line, "too many devices");
        if (r > 0)
            devices[count++] = d;
        c.line = *c.end ? c.end + 1 : c.end;
    }
    *ret_devices = devices;
    *ret_count = count;
    return 0;
}

/* ---- the source ---- */

static int fake_list(struct device_source *s, struct arena *a, Accel__V1__Device ***ret_devices,
                     size_t *ret_count, struct accel_error *err)
{
    const struct device_fake *f = CONTAINER_OF(s, struct device_fake, source);
    AUTO_FREE char *text = NULL;
    size_t len;
    int r = path_read_all(AT_FDCWD, f->path, DEVICE_FILE_BYTES_MAX, &text, &len, err);
    if (r < 0)
        return error_wrap(err, r, "reading fake devices");
    if (strlen(text) != len)
        return error_set(err, ACCEL_EINVAL, "%s: it holds a zero byte", f->path);
    return device_fake_parse(f->path, text, a, ret_devices, ret_count, err);
}

static void on_event(uv_fs_event_t *watch, const char *filename, int events, int status)
{
    struct device_fake *f = watch->data;
    (void)events;
    if (status == 0 && filename && strcmp(filename, f->base) == 0 && f->on_change)
        f->on_change(f->ctx);
}

static void on_closed(uv_handle_t *handle)
{
    struct device_fake *f = handle->data;
    free(f->path);
    free(f);
}

static void fake_destroy(struct device_source *s)
{
    struct device_fake *f = CONTAINER_OF(s, struct device_fake, source);
    uv_close((uv_handle_t *)&f->watch, on_closed);
}

static const struct device_source_ops fake_ops = {.list = fake_list, .destroy = fake_destroy};

int device_fake_create(uv_loop_t *loop, const char *path, void (*on_change)(void *), void *ctx,
                       struct device_source **ret_source, struct accel_error *err)
{
    struct device_fake *f = xcalloc(1, sizeof(*f));
    f->source.ops = &fake_ops;
    f->on_change = on_change;
    f->ctx = ctx;
    f->path = xstrdup(path);
    char *slash = strrchr(f->path, '/');
    f->base = slash ? slash + 1 : f->path;
    AUTO_FREE char *dir = xstrdup(slash ? path : ".");
    if (slash)
        dir[slash == f->path ? 1 : slash - f->path] = 0;
    CHECK(uv_fs_event_init(loop, &f->watch) == 0);
    f->watch.data = f;
    int r = uv_fs_event_start(&f->watch, on_event, dir, 0);
    if (r < 0) {
        fake_destroy(&f->source);
        return error_sys(err, -r, "watching %s", dir);
    }
    *ret_source = &f->source;
    return 0;
}
