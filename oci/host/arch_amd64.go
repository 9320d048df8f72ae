package host

const arch = "SCMP_ARCH_X86_64"
