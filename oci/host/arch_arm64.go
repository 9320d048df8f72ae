package host

const arch = "SCMP_ARCH_AARCH64"
