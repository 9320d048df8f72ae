#include "textflag.h"

// entry is where the kernel starts this program if it is linked with -E main.entry
// (entry.go says what for). The stack: argc, argv, 0, envp, 0, the auxiliary vector.
TEXT ·entry(SB),NOSPLIT|NOFRAME,$0
	// early.Run, called as the compiler calls it (cmd/compile/abi-internal.md): its
	// argument, its result and a zero in registers, room for what it spills.
	MOVQ	SP, AX
	SUBQ	$64, SP
	LEAQ	·noG(SB), R14
	XORPS	X15, X15
	MOVQ	·runEarly(SB), DX
	MOVQ	(DX), CX
	CALL	CX
	ADDQ	$64, SP
	TESTQ	AX, AX
	JLT	ordinary
	MOVQ	AX, DI
	MOVL	$231, AX // exit_group
	SYSCALL
ordinary:
	MOVQ	0(SP), CX
	LEAQ	16(SP)(CX*8), SI // envp
	MOVQ	$0x4f525058414d4f47, BX // "GOMAXPRO"
next:
	MOVQ	0(SI), AX
	ADDQ	$8, SI
	TESTQ	AX, AX
	JEQ	absent
	CMPQ	BX, 0(AX) // the strings are not the last on the stack
	JNE	next
	JMP	start
absent:
	ADDQ	$2, CX // argc, argv and its end go down by two words
	MOVQ	SP, SI
	SUBQ	$16, SP
	MOVQ	SP, DI
	CLD
	REP; MOVSQ
	LEAQ	·oneThread(SB), AX
	MOVQ	AX, 0(DI) // in envp twice, so that the stack stays aligned
	MOVQ	AX, 8(DI)
	MOVB	$1, ·entered(SB)
start:
	JMP	_rt0_amd64_linux(SB)
