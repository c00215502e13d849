/* overflow PID SECONDS PHASE: sends a packet that the full table of process PID's network namespace drops, PHASE
 * microseconds into a period of 20 ms, and prints how many microseconds later the limit was raised, and to what. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* printk wakes its readers on this processor's next tick: PHASE decides how long that takes. A driver that naps keeps
 * postponing that tick (42 ms in the median instead of 2), so it is busy until the tick is long past; then it leaves the
 * processor to whoever is measured. */
static const double PERIOD_SECONDS = 0.02, BUSY_SECONDS = 0.05;
enum { NAP_NANOSECONDS = 200000 };

static const char *LIMIT = "/proc/sys/net/netfilter/nf_conntrack_max";
static int limit_file, writes;
static long before;
static volatile long raised_to;
static volatile double raised_at;

static double now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec + at.tv_nsec / 1e9;
}

static long limit(void)
{
	char text[32] = "";
	return pread(limit_file, text, sizeof text - 1, 0) > 0 ? atol(text) : before;
}

/* Notes the time of the write. The driver can't: who writes on its processor keeps it, and the clock would run on until
 * that program sleeps. This thread sleeps until the write, and then runs before everybody else. */
static void *watch(void *unused)
{
	char events[4096];
	while (read(writes, events, sizeof events) > 0 && !raised_to) {
		double at = now();
		long found = limit();
		if (found > before) {
			raised_at = at;
			raised_to = found;
		}
	}
	return unused;
}

int main(int argc, char **argv)
{
	char namespace[64];
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(9) };
	struct sched_param first = { .sched_priority = 1 };
	pthread_t watcher;
	if (argc != 4)
		return 2;
	snprintf(namespace, sizeof namespace, "/proc/%s/ns/net", argv[1]);
	limit_file = open(LIMIT, O_RDONLY); /* each namespace has its own file for the one value: here, that of the writers */
	writes = inotify_init1(IN_CLOEXEC);
	if (limit_file < 0 || writes < 0 || inotify_add_watch(writes, LIMIT, IN_MODIFY) < 0 || (before = limit()) <= 0 ||
	    pthread_create(&watcher, NULL, watch, NULL) || pthread_setschedparam(watcher, SCHED_FIFO, &first) ||
	    setns(open(namespace, O_RDONLY), CLONE_NEWNET)) {
		perror("overflow");
		return 2;
	}
	int udp = socket(AF_INET, SOCK_DGRAM, 0);
	double start = now();
	double send_at = (double)((long)(start / PERIOD_SECONDS) + 1) * PERIOD_SECONDS + atof(argv[3]) / 1e6;
	double deadline = send_at + atof(argv[2]);
	do
		start = now();
	while (start < send_at);
	if (sendto(udp, "x", 1, 0, (struct sockaddr *)&to, sizeof to) >= 0 || errno != EPERM) {
		fprintf(stderr, "overflow: the packet was not dropped\n");
		return 1;
	}
	while (!raised_to && now() < deadline)
		if (now() - start > BUSY_SECONDS)
			nanosleep(&(struct timespec){ .tv_nsec = NAP_NANOSECONDS }, NULL);
	if (!raised_to)
		return 3;
	printf("%.1f %ld\n", (raised_at - start) * 1e6, raised_to);
	return 0;
}
