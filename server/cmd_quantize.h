/* llama4d quantize [--force] [--threads N] SRC OUT.gguf TYPE */
#ifndef SERVER_CMD_QUANTIZE_H
#define SERVER_CMD_QUANTIZE_H

/* cmd_quantize - argv: what follows the command.  Returns the exit status: 0, 1 (nothing was written), 2 (wrong
 * arguments).  SIGINT, SIGTERM and SIGHUP stop it, and nothing is left behind. */
int cmd_quantize(int argc, char **argv);

#endif
