#include "textflag.h"

// entry is where the kernel starts this program if it is linked with -E main.entry
// (entry.go says what for). The stack: argc, argv, 0, envp, 0, the auxiliary vector.
TEXT ·entry(SB),NOSPLIT|NOFRAME,$0
	// early.Run, called as the compiler calls it (cmd/compile/abi-internal.md): its
	// argument and its result in R0, the function's context in R26, room for what it
	// spills.
	MOVD	RSP, R0
	SUB	$64, RSP
	MOVD	$·noG(SB), g
	MOVD	·runEarly(SB), R26
	MOVD	(R26), R1
	CALL	(R1)
	ADD	$64, RSP
	TBNZ	$63, R0, ordinary
	MOVD	$94, R8 // exit_group
	SVC
ordinary:
	MOVD	0(RSP), R3
	ADD	$2, R3
	MOVD	RSP, R4
	ADD	R3<<3, R4, R5 // envp
	MOVD	$0x4f525058414d4f47, R6 // "GOMAXPRO"
next:
	MOVD.P	8(R5), R7
	CBZ	R7, absent
	MOVD	0(R7), R8 // the strings are not the last on the stack
	CMP	R6, R8
	BNE	next
	B	start
absent:
	SUB	$16, R4, R5 // argc, argv and its end go down by two words
	MOVD	R5, RSP
move:
	MOVD.P	8(R4), R7
	MOVD.P	R7, 8(R5)
	SUB	$1, R3
	CBNZ	R3, move
	MOVD	$·oneThread(SB), R7
	MOVD	R7, 0(R5) // in envp twice, so that the stack stays aligned
	MOVD	R7, 8(R5)
	MOVD	$1, R8
	MOVB	R8, ·entered(SB)
start:
	JMP	_rt0_arm64_linux(SB)
