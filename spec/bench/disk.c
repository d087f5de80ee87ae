/*
 * disk.c: the disk's own limit: files per second of write, fsync and rename, with so many threads at once.
 * Usage: disk FOLDER THREADS FILES BYTES. Prints files per second. Knows nothing of the program that it is compared to.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static char *bytes;
static size_t size;
static int files;
static const char *folder;
static atomic_int next_file;

static void must(int ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static void *writer(void *unused)
{
    int i;

    (void)unused;
    while ((i = atomic_fetch_add(&next_file, 1)) < files) {
        char temporary[4096], name[4096];
        int fd;

        snprintf(temporary, sizeof temporary, "%s/.%d.tmp", folder, i);
        snprintf(name, sizeof name, "%s/%d", folder, i);
        fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL, 0600);
        must(fd >= 0, "open");
        must(write(fd, bytes, size) == (ssize_t)size, "write");
        must(fsync(fd) == 0, "fsync");
        must(close(fd) == 0, "close");
        must(rename(temporary, name) == 0, "rename");
    }
    return NULL;
}

int main(int argc, char **argv)
{
    struct timespec from, to;
    pthread_t threads[64];
    int n;

    if (argc != 5 || (n = atoi(argv[2])) < 1 || n > 64) {
        fputs("usage: disk FOLDER THREADS(1-64) FILES BYTES\n", stderr);
        return 2;
    }
    folder = argv[1];
    files = atoi(argv[3]);
    size = (size_t)atol(argv[4]);
    bytes = malloc(size);
    must(bytes != NULL, "malloc");
    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)(i * 2654435761u >> 13);
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (int i = 0; i < n; i++)
        must(pthread_create(&threads[i], NULL, writer, NULL) == 0, "pthread_create");
    for (int i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    clock_gettime(CLOCK_MONOTONIC, &to);
    printf("%.1f\n", files / ((double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9));
    free(bytes);
    return 0;
}
