#include "textflag.h"

// stub is what stub.go says; the kernel starts it at its first instruction, with
// argc, argv and envp on the stack. argv[0] is the program to execute, argv[1:]
// is its argv. 0x4000c0 is stubBase + stubParams.
TEXT ·stub(SB),NOSPLIT|NOFRAME,$0
	MOVQ	SP, R13
	MOVQ	$0x4000c0, R12
	MOVQ	0(R12), DI // fcntl(report, F_SETFD, FD_CLOEXEC)
	MOVL	$2, SI
	MOVL	$1, DX
	MOVL	$72, AX
	SYSCALL
	TESTQ	AX, AX
	JNE	failed
	MOVQ	8(R13), DI // execve(argv[0], argv+1, envp)
	LEAQ	16(R13), SI
	MOVQ	0(R13), CX
	LEAQ	16(R13)(CX*8), DX
	MOVL	$59, AX
	SYSCALL
failed:
	NEGL	AX // into a copy of the message
	SUBQ	$512, SP
	MOVQ	SP, BX
	MOVQ	BX, DI
	LEAQ	16(R12), SI
	MOVQ	8(R12), CX
	CLD
	REP; MOVSB
	MOVL	AX, 8(BX)
	MOVQ	0(R12), DI // write(report, message, length)
	MOVQ	BX, SI
	MOVQ	8(R12), DX
	MOVL	$1, AX
	SYSCALL
	MOVL	$127, DI // exit_group(127)
	MOVL	$231, AX
	SYSCALL
	INT	$3

// func stubText() *[256]byte
TEXT ·stubText(SB),NOSPLIT,$0-8
	LEAQ	·stub(SB), AX
	MOVQ	AX, ret+0(FP)
	RET
