/* flows FIRST COUNT RATE PROBES: in the caller's network namespace, adds COUNT assured UDP flows, numbered from FIRST,
 * through ctnetlink at RATE a second (0: as fast as it goes), and sends PROBES packets a second over the loopback, each
 * a new flow. Prints: flows refused, probes dropped, seconds taken. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, MESSAGE_BYTES = 256, LIFETIME_SECONDS = 600, TICK_NANOSECONDS = 1000000 };

static char *put(char *at, int type, const void *value, size_t bytes)
{
	struct nlattr *attribute = (struct nlattr *)at;
	attribute->nla_type = type;
	attribute->nla_len = NLA_HDRLEN + bytes;
	memcpy(at + NLA_HDRLEN, value, bytes);
	return at + NLA_HDRLEN + NLA_ALIGN(bytes);
}

/* The kernel wants both directions; the reply is the original turned round. */
static char *put_tuple(char *at, int type, uint32_t from, uint32_t to, uint16_t from_port, uint16_t to_port)
{
	char address[64], protocol[64], *end = address;
	uint8_t udp = IPPROTO_UDP;
	end = put(end, CTA_IP_V4_SRC, &from, 4);
	end = put(end, CTA_IP_V4_DST, &to, 4);
	size_t address_bytes = end - address;
	end = put(protocol, CTA_PROTO_NUM, &udp, 1);
	end = put(end, CTA_PROTO_SRC_PORT, &from_port, 2);
	end = put(end, CTA_PROTO_DST_PORT, &to_port, 2);
	size_t protocol_bytes = end - protocol;
	struct nlattr *tuple = (struct nlattr *)at;
	at = put(at + NLA_HDRLEN, CTA_TUPLE_IP | NLA_F_NESTED, address, address_bytes);
	at = put(at, CTA_TUPLE_PROTO | NLA_F_NESTED, protocol, protocol_bytes);
	tuple->nla_type = type | NLA_F_NESTED;
	tuple->nla_len = at - (char *)tuple;
	return at;
}

static char *put_flow(char *at, uint32_t number, int last)
{
	struct nlmsghdr *head = (struct nlmsghdr *)at;
	struct nfgenmsg *family = NLMSG_DATA(head);
	memset(at, 0, MESSAGE_BYTES);
	family->nfgen_family = AF_INET;
	uint32_t client = htonl(0x0a000001 + number / 60000), server = htonl(0x0ac80001);
	uint16_t port = htons(1024 + number % 60000), service = htons(53);
	uint32_t status = htonl(IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED), lifetime = htonl(LIFETIME_SECONDS);
	char *end = at + NLMSG_HDRLEN + NLMSG_ALIGN(sizeof *family);
	end = put_tuple(end, CTA_TUPLE_ORIG, client, server, port, service);
	end = put_tuple(end, CTA_TUPLE_REPLY, server, client, service, port);
	end = put(end, CTA_STATUS, &status, 4);
	end = put(end, CTA_TIMEOUT, &lifetime, 4);
	head->nlmsg_len = end - at;
	head->nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW;
	head->nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL | (last ? NLM_F_ACK : 0);
	head->nlmsg_seq = number;
	return end;
}

/* Adds flows [first, first + count) in one call and returns how many were refused. An error always comes back; only
 * the last message asks for an answer in any case. ENOMEM is the kernel's word for a full table. */
static long add(int netlink, uint32_t first, int count)
{
	static char batch[BATCH * MESSAGE_BYTES], answer[65536];
	char *end = batch;
	for (int i = 0; i < count; i++)
		end = put_flow(end, first + i, i == count - 1);
	if (send(netlink, batch, end - batch, 0) < 0) {
		perror("flows: sending to ctnetlink");
		exit(1);
	}
	for (long refused = 0;;) {
		int bytes = recv(netlink, answer, sizeof answer, 0);
		struct nlmsghdr *head = (struct nlmsghdr *)answer;
		for (; bytes > 0 && NLMSG_OK(head, (unsigned)bytes); head = NLMSG_NEXT(head, bytes)) {
			int error = ((struct nlmsgerr *)NLMSG_DATA(head))->error;
			if (error == -ENOMEM) {
				refused++;
			} else if (error) {
				fprintf(stderr, "flows: ctnetlink: %s\n", strerror(-error));
				exit(1);
			}
			if (head->nlmsg_seq == first + count - 1)
				return refused;
		}
	}
}

static long probe(int number)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int udp = socket(AF_INET, SOCK_DGRAM, 0);
	to.sin_port = htons(20000 + number % 40000);
	long dropped = sendto(udp, "x", 1, 0, (struct sockaddr *)&to, sizeof to) < 0 && errno == EPERM;
	close(udp);
	return dropped;
}

static double now(void)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec + at.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	uint32_t first = atol(argv[1]);
	long count = atol(argv[2]), done = 0, refused = 0, probes = 0, dropped = 0;
	double rate = atof(argv[3]), probe_rate = atof(argv[4]), start;
	int netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER), on = 1;
	setsockopt(netlink, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
	for (start = now(); done < count;) {
		double passed = now() - start;
		long due = rate > 0 && passed * rate < count ? passed * rate : count;
		for (; probes < passed * probe_rate; probes++)
			dropped += probe(probes);
		for (int size; done < due; done += size) {
			size = due - done < BATCH ? due - done : BATCH;
			refused += add(netlink, first + done, size);
		}
		if (done < count)
			nanosleep(&(struct timespec){ .tv_nsec = TICK_NANOSECONDS }, NULL);
	}
	printf("%ld %ld %.3f\n", refused, dropped, now() - start);
	return 0;
}
