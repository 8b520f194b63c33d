/* Apart from the rest: <linux/tcp.h>, which has the field, and the <netinet/tcp.h> that uv.h brings exclude each other.
 */
#include "server/http_tcp.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

uint64_t tcp_received_bytes(int fd) {
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 ? info.tcpi_bytes_received : 0;
}
