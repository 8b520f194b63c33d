/* llama4d key NAME */
#ifndef SERVER_CMD_KEY_H
#define SERVER_CMD_KEY_H

/* cmd_key - make an API key: its first line of output is the key, the second the line for the file of keys, which holds
 * only the hash.  argv: what follows the command.  Returns the exit status: 0, 1 (no random bytes, or nobody took the
 * output), 2 (wrong arguments). */
int cmd_key(int argc, char **argv);

#endif
