/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `accelctl doctor`: looks at what the rest needs, before it is missed: directories, sockets, the
 * coordinator and its clock, nodes and their devices, certificates, cgroups, limits. Starts
 * nothing and changes nothing. One finding a line; the exit code is 1 if any is bad.
 */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "accel/v1/admin.pb-c.h"
#include "accel/v1/node.pb-c.h"
#include "client/accelctl/doctor.h"
#include "client/accelctl/session.h"
#include "client/accelctl/table.h"
#include "client/accelctl/view.h"
#include "common/clock.h"
#include "common/path.h"
#include "common/pki.h"
#include "common/remote.h"

#define SPACE_MIN_BYTES (256ull << 20)  /* below, a store and logs will soon not fit */
#define SHM_MIN_BYTES   (256ull << 20)  /* data loaders pass batches through it */
#define FILES_MIN       1024u           /* descriptors; a data loader of many workers needs them */
#define CLOCK_WARN_MS   1000            /* times of logs begin to mislead */
#define CLOCK_BAD_MS    (5 * 60 * 1000) /* certificates begin to be refused */
#define CERT_WARN_MS    (14ll * 24 * 3600 * 1000)
#define NFS_SUPER_MAGIC 0x6969
#define CGROUP2_MAGIC   0x63677270
#define CREDENTIALS_MAX 64u /* files looked at */

#define FINDING_AT 19 /* column; AREA has 12 and LEVEL has 5 */

static const char *const level_names[] = {"ok", "note", "WARN", "BAD"};

/* Words from column FINDING_AT on, in as many lines as the terminal needs; a path stays whole. */
static void add_words(struct doctor *d, const char *text)
{
    size_t at = FINDING_AT;

    while (*text != '\0') {
        size_t len = strcspn(text, " ");

        if (at > FINDING_AT && d->width > 0 && at + 1 + len > d->width) {
            str_addf(&d->text, "\n%*s", FINDING_AT, "");
            at = FINDING_AT;
        }
        if (at > FINDING_AT) {
            str_addc(&d->text, ' ');
            at++;
        }
        str_add_visible(&d->text, text, len);
        at += len;
        text += len;
        text += *text == ' ';
    }
    str_addc(&d->text, '\n');
}

static void add_line(struct doctor *d, const char *area, enum doctor_level level, const char *text,
                     const char *advice)
{
    static const char *const colors[] = {"\033[32m", "", "\033[33m", "\033[31m"};
    bool has_color = d->use_color && colors[level][0] != '\0';

    str_addf(&d->text, "%-12s %s%-5s%s ", area, has_color ? colors[level] : "", level_names[level],
             has_color ? "\033[0m" : "");
    add_words(d, text);
    if (advice[0] != '\0') {
        str_addf(&d->text, "%*stry: ", FINDING_AT - 5, "");
        add_words(d, advice);
    }
}

void doctor_add(struct doctor *d, const char *area, enum doctor_level level, const char *advice,
                const char *fmt, ...)
{
    char text[512];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    text[strcspn(text, "\n")] = 0; /* "why:" and "try:" of an error: the advice says it */
    d->worst = level > d->worst ? level : d->worst;
    if (d->items) {
        json_t *item = json_object();
        json_object_set_new(item, "area", json_string(area));
        json_object_set_new(item, "level",
                            json_string(level == DOCTOR_WARN  ? "warn"
                                        : level == DOCTOR_BAD ? "bad"
                                                              : level_names[level]));
        json_object_set_new(item, "finding", view_bytes(text, strlen(text)));
        json_object_set_new(item, "try",
                            advice[0] ? view_bytes(advice, strlen(advice)) : json_null());
        view_items_add(d->items, item);
        return;
    }
    add_line(d, area, level, text, advice);
}

/* --- this program and its directories --- */

static void look_at_program(struct doctor *d)
{
    char exe[PATH_MAX] = "?";
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

    exe[n > 0 ? n : 1] = 0;
    doctor_add(d, "program", DOCTOR_OK, "", "accelctl %s, %s", ACCEL_VERSION, exe);
}

/* The directory may not be there yet: then its first parent that is. */
static void look_at_space(struct doctor *d, const char *what, const char *path)
{
    char dir[PATH_MAX];
    struct statvfs vfs;
    struct statfs fs;

    str_copy(dir, sizeof(dir), path);
    while (statvfs(dir, &vfs) < 0 && strrchr(dir, '/') && dir[1])
        dir[MAX(strrchr(dir, '/') - dir, 1)] = 0;
    uint64_t free_bytes = (uint64_t)vfs.f_bavail * vfs.f_frsize;
    bool is_nfs = statfs(dir, &fs) == 0 && fs.f_type == NFS_SUPER_MAGIC;
    if (access(dir, W_OK) < 0)
        doctor_add(d, "directories", DOCTOR_BAD, "set XDG_STATE_HOME and XDG_RUNTIME_DIR to yours",
                   "%s %s cannot be written", what, dir);
    else if (is_nfs)
        doctor_add(d, "directories", DOCTOR_WARN, "set XDG_STATE_HOME to a local disk",
                   "%s %s is on NFS: locks and syncs of a database are not safe there", what, path);
    else
        doctor_add(d, "directories", free_bytes < SPACE_MIN_BYTES ? DOCTOR_WARN : DOCTOR_OK,
                   free_bytes < SPACE_MIN_BYTES ? "make room: submits are refused on a full disk"
                                                : "",
                   "%s %s, %" PRIu64 " MiB free", what, path, free_bytes >> 20);
}

static void look_at_directories(struct doctor *d)
{
    char path[PATH_MAX];
    struct accel_error err = {0};

    if (path_runtime_dir(path, sizeof(path), &err) < 0)
        doctor_add(d, "directories", DOCTOR_BAD, "set XDG_RUNTIME_DIR to a directory of yours",
                   "%s", err.text);
    else
        look_at_space(d, "sockets in", path);
    if (path_state_dir(path, sizeof(path), &err) < 0)
        doctor_add(d, "directories", DOCTOR_BAD, "set XDG_STATE_HOME to a directory of yours", "%s",
                   err.text);
    else
        look_at_space(d, "state in", path);
}

/* --- the coordinator --- */

struct answer {
    struct doctor *d;
    int64_t sent_ms, offset_ms;
    bool is_there;
};

static void on_status(void *ctx, const ProtobufCMessage *msg)
{
    struct answer *a = ctx;
    const Accel__V1__StatusReply *s = (const Accel__V1__StatusReply *)msg;
    int64_t now_ms = clock_wall_ms();

    a->is_there = true;
    /* Half of the round trip: the best guess of when the answer was written. */
    a->offset_ms = s->now_ms ? s->now_ms - (a->sent_ms + now_ms) / 2 : 0;
    bool is_same = !strcmp(s->version, ACCEL_VERSION);
    doctor_add(a->d, "coordinator", is_same ? DOCTOR_OK : DOCTOR_WARN,
               is_same ? "" : "use programs of one version (one minor version apart is served)",
               "version %s, pid %u, %u of %u nodes ready, %u live jobs", s->version, s->pid,
               s->nodes_ready, s->nodes_known, s->jobs_live);
    if (s->store_error[0])
        doctor_add(a->d, "store", DOCTOR_BAD,
                   "make room or repair the disk; it tries again by itself", "it cannot write: %s",
                   s->store_error);
    else
        doctor_add(a->d, "store", DOCTOR_OK, "", "%s", s->store);
}

static void look_at_clock(struct doctor *d, int64_t offset_ms)
{
    int64_t off_ms = llabs(offset_ms);
    enum doctor_level level = off_ms > CLOCK_BAD_MS    ? DOCTOR_BAD
                              : off_ms > CLOCK_WARN_MS ? DOCTOR_WARN
                                                       : DOCTOR_OK;

    doctor_add(d, "clock", level, level == DOCTOR_OK ? "" : "synchronise both clocks (chrony, ntp)",
               "the coordinator's is %" PRId64 " ms %s", off_ms,
               offset_ms < 0 ? "behind ours" : "ahead of ours");
}

/* Two lines at most: what is enforced there, and what is not. */
static void look_at_isolation(struct doctor *d, const Accel__V1__Node *n)
{
    for (int is_note = 0; is_note < 2; is_note++) {
        AUTO_STR struct str list = {0};
        str_init(&list);
        for (size_t i = 0; i < n->n_limits; i++) {
            bool is_gpus = strncmp(n->limits[i], "GPUs: ", 6) == 0;
            if (!is_gpus && (strstr(n->limits[i], "not enforced") != NULL) == is_note)
                str_addf(&list, "%s%s", list.len ? ", " : "", n->limits[i]);
        }
        if (list.len)
            doctor_add(d, "isolation", is_note ? DOCTOR_NOTE : DOCTOR_OK, "", "node %s: %s",
                       n->name, list.data);
    }
}

static void look_at_node(struct doctor *d, const Accel__V1__Node *n)
{
    bool is_ready = !strcmp(n->state, "READY");
    size_t faults = 0;

    for (size_t i = 0; i < n->n_devices; i++) {
        const Accel__V1__Device *dev = n->devices[i];
        if (!dev->fault[0])
            continue;
        faults++;
        doctor_add(d, "devices", DOCTOR_WARN, "", "%s of node %s is not used: %s", dev->id, n->name,
                   dev->fault);
    }
    doctor_add(d, "nodes", is_ready ? DOCTOR_OK : DOCTOR_WARN,
               is_ready ? "" : "look at its acceld: journalctl -u acceld, or its log file",
               "%s is %s, %zu devices%s%s%s", n->name, n->state, n->n_devices,
               faults ? ", some not to be used" : "", n->reason[0] ? ": " : "", n->reason);
    for (size_t i = 0; i < n->n_limits; i++) {
        if (strncmp(n->limits[i], "GPUs: ", 6) == 0) /* what is wrong with all of them */
            doctor_add(d, "devices", DOCTOR_WARN, "", "node %s: %s", n->name, n->limits[i]);
    }
    look_at_isolation(d, n);
}

static void on_nodes(void *ctx, const ProtobufCMessage *msg)
{
    const Accel__V1__NodesReply *reply = (const Accel__V1__NodesReply *)msg;
    AUTO_FREE const Accel__V1__Node **nodes = view_sorted_nodes(reply);

    for (size_t i = 0; i < reply->n_nodes; i++)
        look_at_node(ctx, nodes[i]);
    if (reply->n_nodes == 0)
        doctor_add(ctx, "nodes", DOCTOR_NOTE,
                   "accelctl nodes starts one here, acceld --join elsewhere",
                   "the coordinator knows no node");
}

static void look_at_coordinator(struct doctor *d, const struct cli *cli)
{
    Accel__V1__StatusRequest status = ACCEL__V1__STATUS_REQUEST__INIT;
    Accel__V1__NodesRequest nodes = ACCEL__V1__NODES_REQUEST__INIT;
    AUTO_SESSION struct session *session = NULL;
    struct accel_error err = {0};
    struct answer answer = {.d = d};
    int r = session_open_existing(cli, &session, &err);

    if (r < 0) {
        bool is_named = option_given(&cli->opt, OPT_COORDINATOR) || getenv("ACCEL_COORDINATOR");
        doctor_add(d, "coordinator", is_named ? DOCTOR_BAD : DOCTOR_NOTE,
                   is_named ? "check the address, the certificate, and that it runs"
                            : "nothing to do: any verb that needs one starts it",
                   "%s", is_named ? err.text : "none runs for you");
        return;
    }
    answer.sent_ms = clock_wall_ms();
    r = session_call(session, "/accel.v1.Admin/Status", &status.base,
                     &accel__v1__status_reply__descriptor, on_status, &answer, &err);
    if (r == 0 && answer.is_there) {
        look_at_clock(d, answer.offset_ms);
        r = session_call(session, "/accel.v1.Nodes/List", &nodes.base,
                         &accel__v1__nodes_reply__descriptor, on_nodes, d, &err);
    }
    if (r < 0)
        doctor_add(d, "coordinator", DOCTOR_BAD, "accelctl admin status says more", "%s", err.text);
}

/* --- this machine --- */

static void look_at_cgroups(struct doctor *d)
{
    static const char *const roots[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
    struct statfs fs;

    for (size_t i = 0; i < ARRAY_LEN(roots); i++) {
        if (statfs(roots[i], &fs) < 0 || fs.f_type != CGROUP2_MAGIC)
            continue;
        bool is_ours = access(roots[i], W_OK) == 0;
        doctor_add(d, "cgroups", is_ours ? DOCTOR_OK : DOCTOR_NOTE,
                   is_ours ? "" : "run acceld as a service (root) to have limits enforced",
                   "version 2 at %s%s", roots[i],
                   is_ours ? "" : ", not writable for you: processes are held by a subreaper");
        return;
    }
    doctor_add(d, "cgroups", DOCTOR_NOTE, "",
               "no cgroup version 2: processes are held by a subreaper");
}

static void look_at_limits(struct doctor *d)
{
    struct rlimit files = {0};
    struct statvfs shm;

    getrlimit(RLIMIT_NOFILE, &files);
    doctor_add(d, "limits", files.rlim_cur < FILES_MIN ? DOCTOR_WARN : DOCTOR_OK,
               files.rlim_cur < FILES_MIN ? "ulimit -n 65536" : "", "%llu open files",
               (unsigned long long)files.rlim_cur);
    if (statvfs("/dev/shm", &shm) < 0) {
        doctor_add(d, "limits", DOCTOR_WARN, "mount a tmpfs there", "there is no /dev/shm");
        return;
    }
    uint64_t bytes = (uint64_t)shm.f_blocks * shm.f_frsize;
    doctor_add(d, "limits", bytes < SHM_MIN_BYTES ? DOCTOR_WARN : DOCTOR_OK,
               bytes < SHM_MIN_BYTES ? "data loaders pass batches through it: make it larger" : "",
               "/dev/shm has %" PRIu64 " MiB", bytes >> 20);
}

static void look_at_device(struct doctor *d, const char *path, const char *what, size_t *found)
{
    if (access(path, F_OK) < 0)
        return;
    ++*found;
    bool is_open = access(path, R_OK | W_OK) == 0;
    doctor_add(d, "devices", is_open ? DOCTOR_OK : DOCTOR_WARN,
               is_open ? "" : "join the group that owns it (see ls -l)", "%s: %s%s", what, path,
               is_open ? "" : " may not be opened by you");
}

static void look_at_devices(struct doctor *d)
{
    size_t found = 0;

    look_at_device(d, "/dev/nvidiactl", "NVIDIA driver", &found);
    look_at_device(d, "/dev/nvidia-uvm", "NVIDIA unified memory", &found);
    look_at_device(d, "/dev/kfd", "AMD driver", &found);
    look_at_device(d, "/dev/accel0", "TPU chips", &found);
    look_at_device(d, "/dev/vfio/0", "TPU chips", &found);
    if (found == 0)
        doctor_add(d, "devices", DOCTOR_NOTE, "", "no GPU or TPU driver here: jobs get CPU slots");
}

/* --- certificates --- */

static void look_at_credential(struct doctor *d, const struct pki_ops *pki, const char *path)
{
    AUTO_FREE char *text = NULL;
    struct accel_error err = {0};
    struct pki_cert cert;
    struct stat st;
    size_t len;
    int64_t now_ms = clock_wall_ms();
    int r = path_read_all(AT_FDCWD, path, (size_t)PKI_PEM_BYTES * 4, &text, &len, &err);

    if (r == 0)
        r = pki->parse(text, &cert, &err);
    if (r < 0) {
        doctor_add(d, "certificates", DOCTOR_WARN,
                   "an admin makes another: accelctl user cert NAME", "%s: %s", path, err.text);
        return;
    }
    if (stat(path, &st) == 0 && (st.st_mode & 077))
        doctor_add(d, "certificates", DOCTOR_BAD,
                   "chmod 600 it, and have it revoked if it was seen",
                   "%s holds a key and may be read by others", path);
    int64_t left_ms = cert.end_ms - now_ms;
    bool is_early = now_ms < cert.begin_ms;
    doctor_add(d, "certificates",
               left_ms <= 0 || is_early ? DOCTOR_BAD
               : left_ms < CERT_WARN_MS ? DOCTOR_WARN
                                        : DOCTOR_OK,
               is_early                 ? "set this machine's clock"
               : left_ms < CERT_WARN_MS ? "an admin makes another: accelctl user cert NAME"
                                        : "",
               "%s: %s, %" PRId64 " days left%s", path, cert.name, left_ms / (24 * 3600 * 1000),
               is_early ? ", and it is not valid yet" : "");
}

static void look_at_credentials(struct doctor *d, const struct pki_ops *pki)
{
    const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    const char *named = getenv("ACCEL_CREDENTIALS");
    AUTO_STR struct str dir = {0};
    size_t seen = 0;

    str_init(&dir);
    if (named && named[0]) {
        look_at_credential(d, pki, named);
        seen++;
    }
    if (config && config[0] == '/')
        str_addf(&dir, "%s/accel/credentials", config);
    else
        str_addf(&dir, "%s/.config/accel/credentials", home ? home : "");
    DIR *list = opendir(dir.data);
    for (struct dirent *e; list && (e = readdir(list)) && seen < CREDENTIALS_MAX;) {
        size_t len = strlen(e->d_name);
        if (len <= 4 || strcmp(e->d_name + len - 4, ".pem"))
            continue;
        char path[PATH_MAX];
        snprintf(path, sizeof(path), "%s/%s", dir.data, e->d_name);
        look_at_credential(d, pki, path);
        seen++;
    }
    if (list)
        closedir(list);
    if (seen == 0)
        doctor_add(d, "certificates", DOCTOR_NOTE, "", "none in %s: only this host can be reached",
                   dir.data);
}

static void look_at_remote(struct doctor *d)
{
    const struct remote_ops *remote;
    struct accel_error err = {0};

    if (remote_load(&remote, &err) < 0) {
        const char *why = strstr(err.text, "\nwhy: "), *advice = strstr(err.text, "\ntry: ");
        why = why ? why + strlen("\nwhy: ") : err.text;
        doctor_add(d, "certificates", DOCTOR_NOTE, advice ? advice + strlen("\ntry: ") : "",
                   "other machines cannot be reached: %.*s", (int)strcspn(why, "\n"), why);
        return;
    }
    look_at_credentials(d, remote->pki);
}

int verb_doctor(struct cli *cli)
{
    struct accel_error err = {0};
    enum view_form form = view_form_of(&cli->opt);
    struct doctor d = {.use_color = cli->use_color};
    size_t rows;
    int r = 0;

    str_init(&d.text);
    d.width = table_terminal_size(&rows);
    if (form == VIEW_JSON || form == VIEW_YAML)
        d.items = view_items_create(form, view_fields_of(&cli->opt));
    else
        str_addf(&d.text, "%-12s %-5s FINDING\n", "AREA", "LEVEL");
    look_at_program(&d);
    look_at_directories(&d);
    look_at_coordinator(&d, cli);
    look_at_remote(&d);
    look_at_devices(&d);
    look_at_cgroups(&d);
    look_at_limits(&d);
    if (d.items)
        r = view_items_print(d.items, &err);
    else
        cli_write_str(STDOUT_FILENO, &d.text);
    view_items_destroy(d.items);
    str_done(&d.text);
    if (r < 0)
        return cli_error(&err);
    return d.worst == DOCTOR_BAD ? EXIT_CODE_FAILED : EXIT_CODE_OK;
}
