/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A name service (nss(5)) that knows one user, `slow`, and takes its time: it opens the FIFO
 * $ACCEL_TEST_NSS and answers when it has read a line from there. Loaded by the C library of a
 * daemon under test, in a mount namespace whose nsswitch.conf names it.
 */
#include <errno.h>
#include <fcntl.h>
#include <nss.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

__attribute__((visibility("default"))) enum nss_status _nss_acceltest_getpwnam_r(
    const char *name, struct passwd *pw, char *buf, size_t size, int *sys);

enum nss_status _nss_acceltest_getpwnam_r(const char *name, struct passwd *pw, char *buf,
                                          size_t size, int *sys)
{
    const char *path = getenv("ACCEL_TEST_NSS");
    char c = 0;

    *sys = ENOENT;
    if (!path || strcmp(name, "slow") != 0 || size < 16)
        return NSS_STATUS_NOTFOUND;
    int fd = open(path, O_RDONLY | O_CLOEXEC); /* until the test opens it, too */
    while (fd >= 0 && c != '\n' && read(fd, &c, 1) == 1)
        continue;
    if (fd >= 0)
        close(fd);
    memcpy(buf, "slow\0/\0", 8);
    *pw = (struct passwd){.pw_name = buf,
                          .pw_passwd = buf + 4,
                          .pw_uid = 4242,
                          .pw_gid = 4242,
                          .pw_gecos = buf + 4,
                          .pw_dir = buf + 5,
                          .pw_shell = buf + 5};
    return NSS_STATUS_SUCCESS;
}
