"""ARCH: twelve data sets of sounds, music and speech (La Quatra et al., 2024), by linear probes."""
