#include "textflag.h"

// stub is what stub.go says; the kernel starts it at its first instruction, with
// argc, argv and envp on the stack. argv[0] is the program to execute, argv[1:]
// is its argv. 0x4000c0 is stubBase + stubParams.
TEXT ·stub(SB),NOSPLIT|NOFRAME,$0
	MOVD	RSP, R19
	MOVD	$0x4000c0, R20
	MOVD	0(R20), R0 // fcntl(report, F_SETFD, FD_CLOEXEC)
	MOVD	$2, R1
	MOVD	$1, R2
	MOVD	$25, R8
	SVC
	CBNZ	R0, failed
	MOVD	8(R19), R0 // execve(argv[0], argv+1, envp)
	ADD	$16, R19, R1
	MOVD	0(R19), R3
	ADD	R3<<3, R1, R2
	MOVD	$221, R8
	SVC
failed:
	NEG	R0, R21 // into a copy of the message
	SUB	$512, RSP
	MOVD	RSP, R22
	ADD	$16, R20, R3
	MOVD	8(R20), R4
	MOVD	R22, R5
copy:
	CBZ	R4, copied
	MOVBU.P	1(R3), R6
	MOVB.P	R6, 1(R5)
	SUB	$1, R4
	B	copy
copied:
	MOVW	R21, 8(R22)
	MOVD	0(R20), R0 // write(report, message, length)
	MOVD	R22, R1
	MOVD	8(R20), R2
	MOVD	$64, R8
	SVC
	MOVD	$127, R0 // exit_group(127)
	MOVD	$94, R8
	SVC
	BRK

// func stubText() *[256]byte
TEXT ·stubText(SB),NOSPLIT,$0-8
	MOVD	$·stub(SB), R0
	MOVD	R0, ret+0(FP)
	RET
