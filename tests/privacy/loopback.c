/* Preloaded into a process: refuses every connection that is not to this machine, and every
   look-up of another machine's name, and writes each to the file $LOOPBACK_LOG. Native code is
   caught as well, as far as it calls the C library. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NEXT(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

static void record(const char *what, const char *where) {
    const char *path = getenv("LOOPBACK_LOG");
    char line[512];
    int length = snprintf(line, sizeof line, "%d %s %.300s\n", (int)getpid(), what, where);
    int file = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (file < 0 || write(file, line, (size_t)length) != length) abort();
    close(file);
}

static int is_here(const char *what, const struct sockaddr *address) {
    char text[INET6_ADDRSTRLEN] = "";
    if (address == NULL) return 1;
    if (address->sa_family == AF_INET) {
        const struct in_addr *ip = &((const struct sockaddr_in *)address)->sin_addr;
        if (ntohl(ip->s_addr) >> 24 == 127 || ip->s_addr == INADDR_ANY) return 1;
        inet_ntop(AF_INET, ip, text, sizeof text);
    } else if (address->sa_family == AF_INET6) {
        const struct in6_addr *ip = &((const struct sockaddr_in6 *)address)->sin6_addr;
        if (IN6_IS_ADDR_LOOPBACK(ip) || IN6_IS_ADDR_UNSPECIFIED(ip)) return 1;
        if (IN6_IS_ADDR_V4MAPPED(ip) && ip->s6_addr[12] == 127) return 1;
        inet_ntop(AF_INET6, ip, text, sizeof text);
    } else {
        return 1;
    }
    record(what, text);
    errno = ENETUNREACH;
    return 0;
}

static int is_name_here(const char *what, const char *name) {
    struct in6_addr number;
    if (name == NULL || *name == 0 || strcmp(name, "localhost") == 0) return 1;
    if (inet_pton(AF_INET, name, &number) == 1 || inet_pton(AF_INET6, name, &number) == 1) return 1;
    record(what, name);
    return 0;
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
    return is_here("connect", address) ? NEXT(connect)(fd, address, length) : -1;
}

ssize_t sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *address,
               socklen_t length) {
    return is_here("sendto", address) ? NEXT(sendto)(fd, data, size, flags, address, length) : -1;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    return is_here("sendmsg", message->msg_name) ? NEXT(sendmsg)(fd, message, flags) : -1;
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags) {
    for (unsigned int each = 0; each < count; each++)
        if (!is_here("sendmmsg", messages[each].msg_hdr.msg_name)) return -1;
    return NEXT(sendmmsg)(fd, messages, count, flags);
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
    return is_name_here("getaddrinfo", name) ? NEXT(getaddrinfo)(name, service, hints, found)
                                             : EAI_NONAME;
}

struct hostent *gethostbyname(const char *name) {
    return is_name_here("gethostbyname", name) ? NEXT(gethostbyname)(name) : NULL;
}

int gethostbyname_r(const char *name, struct hostent *entry, char *buffer, size_t size,
                    struct hostent **found, int *error) {
    if (is_name_here("gethostbyname_r", name))
        return NEXT(gethostbyname_r)(name, entry, buffer, size, found, error);
    *found = NULL;
    *error = HOST_NOT_FOUND;
    return 0;
}
