#include "core/model/rope.h"

#include <math.h>

/* Long wavelengths are stretched by factor, short ones kept, those between blended. */
static double scale_llama3(const struct model_config *config, double freq) {
    double wavelength = 2 * M_PI / freq, original = (double)config->rope_original_context;
    double low = config->rope_low_freq_factor, high = config->rope_high_freq_factor;
    if (wavelength < original / high)
        return freq;
    if (wavelength > original / low || low == high)
        return freq / config->rope_factor;
    double s = (original / wavelength - low) / (high - low);
    return (1 - s) * freq / config->rope_factor + s * freq;
}

void rope_frequencies(const struct model_config *config, const float *divisors, double *inv_freq) {
    for (int32_t j = 0; j < config->head_dim / 2; j++) {
        double freq = pow(config->rope_theta, -2.0 * j / config->head_dim);
        inv_freq[j] = config->rope_llama3 ? scale_llama3(config, freq) : freq;
        if (divisors)
            inv_freq[j] /= (double)divisors[j];
    }
}

void rope_angles(const double *inv_freq, int32_t n, int64_t position, float *cos_out, float *sin_out) {
    for (int32_t j = 0; j < n; j++) {
        double angle = (double)position * inv_freq[j];
        cos_out[j] = (float)cos(angle);
        sin_out[j] = (float)sin(angle);
    }
}
