/* Yardstick: poll PID MILLISECONDS: reads the table of PID's network namespace at that interval, and multiplies the
 * limit by 1.5 while the table is 80 % full. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static long number(int file)
{
	char text[32] = "";
	return pread(file, text, sizeof text - 1, 0) > 0 ? atol(text) : 0;
}

int main(int argc, char **argv)
{
	char path[64];
	int limit = open("/proc/sys/net/netfilter/nf_conntrack_max", O_RDWR);
	snprintf(path, sizeof path, "/proc/%s/ns/net", argc == 3 ? argv[1] : "self");
	if (limit < 0 || setns(open(path, O_RDONLY), CLONE_NEWNET) < 0)
		return 1;
	int count = open("/proc/sys/net/netfilter/nf_conntrack_count", O_RDONLY);
	if (count < 0)
		return 1;
	write(1, "ready\n", 6);
	for (;; usleep(1000 * atoi(argv[2])))
		if (number(count) * 10 >= number(limit) * 8)
			pwrite(limit, path, sprintf(path, "%ld\n", number(limit) * 3 / 2), 0);
}
