package pod

type (
	Images   interface{}
	Network  interface{}
	Monitors interface{}
)
