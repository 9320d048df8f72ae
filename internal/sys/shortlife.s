#include "textflag.h"

// func growStack()
TEXT ·growStack(SB),0,$14336-0
	RET
