#ifndef SERVER_VERSION_H
#define SERVER_VERSION_H

#define LLAMA4D_VERSION "0.1.0"

#endif
