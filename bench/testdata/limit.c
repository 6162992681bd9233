// The limit of the machine: the bytes of one answer, written for each request over epoll. It parses nothing: what one
// read returns is taken to be one request, as the generator sends it.
//
//   limit PORT THREADS FILE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

static char answer[4096];
static ssize_t size;

static void *serve(void *arg) {
  int epoll = *(int *)arg;
  struct epoll_event events[256];
  char request[16384];
  for (;;) {
    int n = epoll_wait(epoll, events, 256, -1);
    for (int i = 0; i < n; i++) {
      int fd = events[i].data.fd;
      ssize_t got = read(fd, request, sizeof request);
      if (got > 0) got = write(fd, answer, size);
      if (got <= 0) close(fd);
    }
  }
  return NULL;
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  signal(SIGPIPE, SIG_IGN);
  int threads = atoi(argv[2]), file = open(argv[3], O_RDONLY), on = 1;
  size = read(file, answer, sizeof answer);
  if (size <= 0 || threads < 1) return 2;
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(listener, (struct sockaddr *)&addr, sizeof addr) || listen(listener, 4096)) {
    perror("limit");
    return 1;
  }
  int *epolls = calloc(threads, sizeof *epolls);
  for (int i = 0; i < threads; i++) {
    pthread_t thread;
    epolls[i] = epoll_create1(0);
    pthread_create(&thread, NULL, serve, &epolls[i]);
  }
  for (unsigned next = 0;; next++) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) continue;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(epolls[next % threads], EPOLL_CTL_ADD, fd, &event);
  }
}
