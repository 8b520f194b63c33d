size_t needs_a_header(void);
