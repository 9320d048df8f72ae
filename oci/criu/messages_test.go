package criu

import (
	"reflect"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/rpc"

	"github.com/strake-containers/strake/internal/pb"
)

func ptr[T any](v T) *T { return &v }

// What we send reads as the same in CRIU's own words.
func TestRequestsReadTheSameInCRIU(t *testing.T) {
	ours := request{
		Type: Restore, NotifySuccess: true, KeepOpen: true, Features: &Features{MemTrack: true, LazyPages: true},
		Options: &Options{
			ImagesDirFD: 3, Pid: 4, LeaveRunning: true, ExtUnixSk: true, TCPEstablished: true, EvasiveDevices: true,
			ShellJob: true, FileLocks: true, LogLevel: 4, LogFile: "restore.log",
			PageServer: &PageServer{"::1", 1234}, NotifyScripts: true, Root: "/root", ParentImage: "../parent",
			TrackMem: true, AutoDedup: true, WorkDirFD: 5, LinkRemap: true,
			ExternalMounts: []*ExternalMount{{"/a", "/b"}, {"/c", "/dev/null"}}, ManageCgroups: true,
			CgroupRoots:    []*CgroupRoot{{"cpu", "/x"}, {"", "/y"}},
			RestoreSibling: true, InheritFDs: []*InheritFD{{"pipe:[1]", 4}}, ManageCgroupsMode: ptr(int32(CgroupIgnore)),
			External: []string{"net[1]:extRootNetNS", ""}, EmptyNS: 0x40000000,
			JoinNS: []*JoinedNamespace{{"uts", "/ns"}}, FreezeCgroup: "/sys/fs/cgroup/x", TCPSkipInFlight: true,
			LazyPages: true, OrphanPtsMaster: true, ConfigFile: "/etc/criu/runc.conf", LSMProfile: "apparmor:p",
			LSMMountContext: "c",
		},
	}
	for i := range reflect.TypeFor[Options]().NumField() {
		if reflect.ValueOf(*ours.Options).Field(i).IsZero() {
			t.Errorf("%s is not in this test", reflect.TypeFor[Options]().Field(i).Name)
		}
	}
	want := &rpc.CriuReq{
		Type: ptr(rpc.CriuReqType_RESTORE), NotifySuccess: ptr(true), KeepOpen: ptr(true),
		Features: &rpc.CriuFeatures{MemTrack: ptr(true), LazyPages: ptr(true)},
		Opts: &rpc.CriuOpts{
			ImagesDirFd: ptr[int32](3), Pid: ptr[int32](4), LeaveRunning: ptr(true), ExtUnixSk: ptr(true),
			TcpEstablished: ptr(true), EvasiveDevices: ptr(true), ShellJob: ptr(true), FileLocks: ptr(true),
			LogLevel: ptr[int32](4), LogFile: ptr("restore.log"),
			Ps:            &rpc.CriuPageServerInfo{Address: ptr("::1"), Port: ptr[int32](1234)},
			NotifyScripts: ptr(true), Root: ptr("/root"), ParentImg: ptr("../parent"), TrackMem: ptr(true),
			AutoDedup: ptr(true), WorkDirFd: ptr[int32](5), LinkRemap: ptr(true),
			ExtMnt:        []*rpc.ExtMountMap{{Key: ptr("/a"), Val: ptr("/b")}, {Key: ptr("/c"), Val: ptr("/dev/null")}},
			ManageCgroups: ptr(true),
			CgRoot:        []*rpc.CgroupRoot{{Ctrl: ptr("cpu"), Path: ptr("/x")}, {Path: ptr("/y")}},
			RstSibling:    ptr(true), InheritFd: []*rpc.InheritFd{{Key: ptr("pipe:[1]"), Fd: ptr[int32](4)}},
			ManageCgroupsMode: ptr(rpc.CriuCgMode_IGNORE), External: []string{"net[1]:extRootNetNS", ""},
			EmptyNs: ptr[uint32](0x40000000), JoinNs: []*rpc.JoinNamespace{{Ns: ptr("uts"), NsFile: ptr("/ns")}},
			FreezeCgroup: ptr("/sys/fs/cgroup/x"), TcpSkipInFlight: ptr(true), LazyPages: ptr(true),
			OrphanPtsMaster: ptr(true), ConfigFile: ptr("/etc/criu/runc.conf"), LsmProfile: ptr("apparmor:p"),
			LsmMountContext: ptr("c"),
		},
	}
	data, err := pb.Marshal(&ours)
	if err != nil {
		t.Fatal(err)
	}
	var got rpc.CriuReq
	if err := got.UnmarshalVT(data); err != nil || !reflect.DeepEqual(&got, want) {
		t.Errorf("CRIU reads\n%v (%v), want\n%v", &got, err, want)
	}
}

// What CRIU sends reads as the same here.
func TestResponsesOfCRIU(t *testing.T) {
	for _, c := range []struct {
		theirs rpc.CriuResp
		want   response
	}{
		{rpc.CriuResp{Type: ptr(rpc.CriuReqType_DUMP), Success: ptr(false), CrErrno: ptr[int32](3), CrErrmsg: ptr("no")},
			response{Type: Dump, Errno: 3, Message: "no"}},
		{rpc.CriuResp{Type: ptr(rpc.CriuReqType_RESTORE), Success: ptr(true), Restore: &rpc.CriuRestoreResp{Pid: ptr[int32](7)}},
			response{Type: Restore, Success: true, Restore: &restored{7}}},
		{rpc.CriuResp{Type: ptr(rpc.CriuReqType_PRE_DUMP), Success: ptr(true), Dump: &rpc.CriuDumpResp{Restored: ptr(true)}},
			response{Type: PreDump, Success: true}},
		{rpc.CriuResp{Type: ptr(rpc.CriuReqType_NOTIFY), Success: ptr(true), Notify: &rpc.CriuNotify{Script: ptr("post-dump"), Pid: ptr[int32](9)}},
			response{Type: notify, Success: true, Notify: &notification{"post-dump", 9}}},
		{rpc.CriuResp{Type: ptr(rpc.CriuReqType_FEATURE_CHECK), Success: ptr(true), Features: &rpc.CriuFeatures{MemTrack: ptr(true), PidfdStore: ptr(true)}},
			response{Type: featureCheck, Success: true, Features: &Features{MemTrack: true}}},
		{rpc.CriuResp{Type: ptr(rpc.CriuReqType_VERSION), Success: ptr(true), Version: &rpc.CriuVersion{MajorNumber: ptr[int32](3), MinorNumber: ptr[int32](17), Sublevel: ptr[int32](1), Name: ptr("x")}},
			response{Type: version, Success: true, Version: &versionInfo{3, 17, 1}}},
	} {
		data, err := c.theirs.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		var got response
		if err := pb.Unmarshal(data, &got); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v reads as %+v, %v", &c.theirs, got, err)
		}
	}
}

// Whatever comes in CRIU's place is read or refused, and never a panic; what is
// read is what CRIU's own code reads.
func FuzzResponse(f *testing.F) {
	data, err := (&rpc.CriuResp{Type: ptr(rpc.CriuReqType_NOTIFY), Success: ptr(true), Notify: &rpc.CriuNotify{Script: ptr("x"), Pid: ptr[int32](-1)}}).MarshalVT()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte{0x08})
	f.Fuzz(func(t *testing.T, data []byte) {
		var got response
		if pb.Unmarshal(data, &got) != nil {
			return
		}
		var theirs rpc.CriuResp
		if theirs.UnmarshalVT(data) != nil || theirs.Type == nil || theirs.Success == nil {
			return
		}
		if int32(got.Type) != int32(theirs.GetType()) || got.Success != theirs.GetSuccess() || got.Errno != theirs.GetCrErrno() ||
			got.Message != theirs.GetCrErrmsg() {
			t.Errorf("%x: %+v, want %v", data, got, &theirs)
		}
		if n := theirs.GetNotify(); n != nil && (got.Notify == nil || got.Notify.Script != n.GetScript() || got.Notify.Pid != n.GetPid()) {
			t.Errorf("%x: %+v, want %v", data, got.Notify, n)
		}
	})
}
