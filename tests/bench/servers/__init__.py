"""What is measured beside our service. Each file is a program and reads as the documentation of its framework does; the folder with the
network is in BENCH_NETWORK, how many processes answer in BENCH_WORKERS."""
