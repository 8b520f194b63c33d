/* The codebooks of the IQ types. */
#ifndef CORE_FORMAT_DEQUANT_TABLES_H
#define CORE_FORMAT_DEQUANT_TABLES_H

#include <stdint.h>

/* Eight values an entry, two bits each, the first lowest.  IQ2: 0, 1, 2 mean 8, 25, 43; IQ1: -1, 0, 1. */
extern const uint16_t IQ2_XXS_GRID[256], IQ2_XS_GRID[512], IQ2_S_GRID[1024], IQ1_GRID[2048];

/* Four values an entry, four bits each, the first lowest.  XXS: 0..7 mean 4, 12, 20, ... 52, 62; S: 1, 3, ... 15. */
extern const uint16_t IQ3_XXS_GRID[256], IQ3_S_GRID[512];

#endif
