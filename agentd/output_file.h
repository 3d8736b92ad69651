/* SPDX-License-Identifier: Apache-2.0 */
/*
 * output_file.h - one stream of one rank as the shim writes it: segments of exactly
 * LIMIT_OUTPUT_SEGMENT_BYTES, some of which may be gone (shim.h). Blocking reads of local files.
 */
#ifndef ACCEL_AGENTD_OUTPUT_FILE_H
#define ACCEL_AGENTD_OUTPUT_FILE_H

#include "common/error.h"

struct output_piece {
    uint64_t offset;    /* in: where to start; out: of data, greater where output was cut */
    uint64_t cut_bytes; /* out: missing before data */
    uint8_t *data;      /* in: room for `limit` bytes */
    size_t len;         /* out */
    bool is_end;        /* out: nothing follows now */
};
/* Reads up to limit (> 0) bytes from piece->offset, over segments but not over a cut that would
 * come after data. A stream that does not exist is an empty one. Changes *piece on success only. */
int output_file_read(int dir_fd, uint32_t rank, bool is_stderr, size_t limit,
                     struct output_piece *piece, struct accel_error *err);
/* The offset at which the last `lines` lines begin, no further back than the newest cut. A last
 * line without its newline counts. */
int output_file_tail(int dir_fd, uint32_t rank, bool is_stderr, uint64_t lines,
                     uint64_t *ret_offset, struct accel_error *err);

#endif
