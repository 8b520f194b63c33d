/* What the kernel knows of a TCP connection. */
#ifndef SERVER_HTTP_TCP_H
#define SERVER_HTTP_TCP_H

#include <stdint.h>

/* Bytes that the connection has received so far, read or not; 0 where the kernel does not tell. */
uint64_t tcp_received_bytes(int fd);

#endif
