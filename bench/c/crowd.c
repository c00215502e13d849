/* crowd NUMBER: is NUMBER sleeping processes until standard input ends. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int wanted = argc == 2 ? atoi(argv[1]) : 0;
	pid_t *made = calloc(wanted + 1, sizeof *made);
	char end;
	for (int i = 0; i < wanted; i++) {
		made[i] = fork();
		if (made[i] < 0)
			return perror("crowd: fork"), 1;
		if (made[i] == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (;;)
				pause();
		}
	}
	write(1, "ready\n", 6);
	while (read(0, &end, 1) > 0)
		;
	for (int i = 0; i < wanted; i++)
		kill(made[i], SIGKILL);
	for (int i = 0; i < wanted; i++)
		waitpid(made[i], NULL, 0);
	return 0;
}
