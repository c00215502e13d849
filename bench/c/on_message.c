/* Yardstick: follows the kernel's ring buffer and multiplies the limit by 1.5 at every "table full" message. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(void)
{
	char record[8192], value[32];
	int kmsg = open("/dev/kmsg", O_RDONLY), limit = open("/proc/sys/net/netfilter/nf_conntrack_max", O_RDWR);
	if (kmsg < 0 || limit < 0)
		return 1;
	lseek(kmsg, 0, SEEK_END);
	write(1, "ready\n", 6);
	for (;;) {
		ssize_t bytes = read(kmsg, record, sizeof record - 1);
		if (bytes < 0)
			continue; /* EPIPE: records were overwritten before they were read */
		record[bytes] = 0;
		if (!strstr(record, "nf_conntrack: table full"))
			continue;
		value[pread(limit, value, sizeof value - 1, 0)] = 0;
		pwrite(limit, value, sprintf(value, "%ld\n", atol(value) * 3 / 2), 0);
	}
}
