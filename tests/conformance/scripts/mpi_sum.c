/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An MPI program as there are thousands: every rank sends around a ring, the sum comes back, and
 * the ranks of one machine find each other by MPI_Comm_split_type.
 */
#include <mpi.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    int rank, size, sum, local, from = -1;
    MPI_Comm node;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    MPI_Sendrecv(&rank, 1, MPI_INT, (rank + 1) % size, 7, &from, 1, MPI_INT,
                 (rank + size - 1) % size, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
    MPI_Comm_rank(node, &local);
    printf("rank %d of %d sum %d from %d local %d\n", rank, size, sum, from, local);
    MPI_Comm_free(&node);
    MPI_Finalize();
    return 0;
}
