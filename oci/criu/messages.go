package criu

// The messages of images/rpc.proto in CRIU's sources, with its field numbers, as
// far as they are used here. Those that this package leaves out are not sent, and
// skipped when they come.

// RequestType is criu_req_type.
type RequestType int32

// The requests that this package's users make; notify comes from CRIU.
const (
	Dump         RequestType = 1
	Restore      RequestType = 2
	PreDump      RequestType = 4
	notify       RequestType = 6
	featureCheck RequestType = 9
	version      RequestType = 10
)

func (t RequestType) String() string {
	switch t {
	case Dump:
		return "dump"
	case Restore:
		return "restore"
	case PreDump:
		return "pre-dump"
	case notify:
		return "notify"
	case featureCheck:
		return "feature check"
	case version:
		return "version"
	}
	return "unknown request"
}

// CgroupMode is criu_cg_mode.
type CgroupMode int32

// How CRIU is to treat cgroups (criu(8), --manage-cgroups).
const (
	CgroupIgnore  CgroupMode = 0
	CgroupSoft    CgroupMode = 3
	CgroupFull    CgroupMode = 4
	CgroupStrict  CgroupMode = 5
	CgroupDefault CgroupMode = 6
)

// request is criu_req.
type request struct {
	Type          RequestType `pb:"1"`
	Options       *Options    `pb:"2"`
	NotifySuccess bool        `pb:"3"`
	KeepOpen      bool        `pb:"4"`
	Features      *Features   `pb:"5"`
}

// Options is criu_opts. Descriptors are numbers of the process that asks, but for
// InheritFDs', which are CRIU's own.
type Options struct {
	ImagesDirFD       int32              `pb:"1"`
	Pid               int32              `pb:"2"`
	LeaveRunning      bool               `pb:"3"`
	ExtUnixSk         bool               `pb:"4"`
	TCPEstablished    bool               `pb:"5"`
	EvasiveDevices    bool               `pb:"6"`
	ShellJob          bool               `pb:"7"`
	FileLocks         bool               `pb:"8"`
	LogLevel          int32              `pb:"9"`
	LogFile           string             `pb:"10"`
	PageServer        *PageServer        `pb:"11"`
	NotifyScripts     bool               `pb:"12"`
	Root              string             `pb:"13"`
	ParentImage       string             `pb:"14"`
	TrackMem          bool               `pb:"15"`
	AutoDedup         bool               `pb:"16"`
	WorkDirFD         int32              `pb:"17"`
	LinkRemap         bool               `pb:"18"`
	ExternalMounts    []*ExternalMount   `pb:"23"`
	ManageCgroups     bool               `pb:"24"` // of versions before ManageCgroupsMode
	CgroupRoots       []*CgroupRoot      `pb:"25"`
	RestoreSibling    bool               `pb:"26"`
	InheritFDs        []*InheritFD       `pb:"27"`
	ManageCgroupsMode *int32             `pb:"34"` // CgroupMode; 0 is one
	External          []string           `pb:"37"`
	EmptyNS           uint32             `pb:"38"`
	JoinNS            []*JoinedNamespace `pb:"39"`
	FreezeCgroup      string             `pb:"44"`
	TCPSkipInFlight   bool               `pb:"46"`
	LazyPages         bool               `pb:"48"`
	OrphanPtsMaster   bool               `pb:"50"`
	ConfigFile        string             `pb:"51"`
	LSMProfile        string             `pb:"53"`
	LSMMountContext   string             `pb:"63"`
}

// PageServer is criu_page_server_info.
type PageServer struct {
	Address string `pb:"1"`
	Port    int32  `pb:"2"`
}

// ExternalMount is ext_mount_map. For a dump, Key is a path in the container and
// Value the name by which the image calls it; for a restore, Key is that name and
// Value a path on the host.
type ExternalMount struct {
	Key   string `pb:"1"`
	Value string `pb:"2"`
}

// CgroupRoot is cgroup_root.
type CgroupRoot struct {
	Controller string `pb:"1"`
	Path       string `pb:"2"`
}

// InheritFD is inherit_fd. FD is not 0: that is CRIU's standard input.
type InheritFD struct {
	Key string `pb:"1"`
	FD  int32  `pb:"2"`
}

// JoinedNamespace is join_namespace.
type JoinedNamespace struct {
	NS   string `pb:"1"`
	File string `pb:"2"`
}

// Features is criu_features.
type Features struct {
	MemTrack  bool `pb:"1"`
	LazyPages bool `pb:"2"`
}

// response is criu_resp.
type response struct {
	Type     RequestType   `pb:"1"`
	Success  bool          `pb:"2"`
	Restore  *restored     `pb:"4"`
	Notify   *notification `pb:"5"`
	Errno    int32         `pb:"7"`
	Features *Features     `pb:"8"`
	Message  string        `pb:"9"`
	Version  *versionInfo  `pb:"10"`
}

// restored is criu_restore_resp.
type restored struct {
	Pid int32 `pb:"1"`
}

// notification is criu_notify.
type notification struct {
	Script string `pb:"1"`
	Pid    int32  `pb:"2"`
}

// versionInfo is criu_version.
type versionInfo struct {
	Major    int32 `pb:"1"`
	Minor    int32 `pb:"2"`
	Sublevel int32 `pb:"4"`
}
