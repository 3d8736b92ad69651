/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `accelctl version`: ours, and the coordinator's if one answers. Starts nothing: who asks for the
 * version wants no daemons.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "accel/v1/admin.pb-c.h"
#include "client/accelctl/session.h"
#include "client/accelctl/view.h"

#define VERSION_BYTES 64

static void on_status(void *ctx, const ProtobufCMessage *msg)
{
    str_copy(ctx, VERSION_BYTES, ((const Accel__V1__StatusReply *)msg)->version);
}

int verb_version(struct cli *cli)
{
    AUTO_SESSION struct session *session = NULL;
    AUTO_STR struct str text = {0};
    Accel__V1__StatusRequest req = ACCEL__V1__STATUS_REQUEST__INIT;
    char coordinator[VERSION_BYTES] = "";
    enum view_form form = view_form_of(&cli->opt);

    if (session_open_existing(cli, &session, NULL) == 0)
        session_call(session, "/accel.v1.Admin/Status", &req.base,
                     &accel__v1__status_reply__descriptor, on_status, coordinator, NULL);
    if (form == VIEW_JSON || form == VIEW_YAML) {
        json_t *o = json_object();

        json_object_set_new(o, "accelctl", json_string(ACCEL_VERSION));
        json_object_set_new(o, "coordinator",
                            coordinator[0] != '\0' ? json_string(coordinator) : json_null());
        view_print(view_single(o), form);
        return EXIT_CODE_OK;
    }
    str_init(&text);
    str_addf(&text, "accelctl %s\n", ACCEL_VERSION);
    if (coordinator[0] != '\0' && form != VIEW_NAME)
        str_addf(&text, "coordinator %s\n", coordinator);
    cli_write_str(STDOUT_FILENO, &text);
    return EXIT_CODE_OK;
}
