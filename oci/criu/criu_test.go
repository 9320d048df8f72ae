package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
	"golang.org/x/sys/unix"

	"github.com/strake-containers/strake/internal/testutil"
)

// fakeEnv makes the test binary a CRIU that behaves as the value says.
const fakeEnv = "STRAKE_TEST_CRIU"

func TestMain(m *testing.M) {
	if how := os.Getenv(fakeEnv); how != "" {
		if err := beCRIU(how); err != nil {
			fmt.Fprintln(os.Stderr, "Error (fake):", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// beCRIU serves `criu swrk 3`.
func beCRIU(how string) error {
	if how == "dead" {
		return errors.New("no vDSO")
	}
	if len(os.Args) != 3 || os.Args[1] != "swrk" || os.Args[2] != "3" {
		return fmt.Errorf("called as %q", os.Args)
	}
	for {
		r, err := next()
		if err != nil {
			return err
		}
		answer := &rpc.CriuResp{Type: r.Type, Success: ptr(true)}
		switch r.GetType() {
		case rpc.CriuReqType_VERSION:
			answer.Version = &rpc.CriuVersion{MajorNumber: ptr[int32](3), MinorNumber: ptr[int32](17)}
			if how == "old" {
				answer.Version.MinorNumber = ptr[int32](15)
			}
		case rpc.CriuReqType_FEATURE_CHECK:
			answer.Features = &rpc.CriuFeatures{LazyPages: ptr(true), MemTrack: ptr(false)}
		case rpc.CriuReqType_DUMP:
			if how == "failing" {
				answer.Success, answer.CrErrno, answer.CrErrmsg = ptr(false), ptr(int32(unix.EEXIST)), ptr("it is there")
			}
			if how == "quits" {
				return errors.New("out of ideas")
			}
		case rpc.CriuReqType_RESTORE:
			for _, script := range []string{"setup-namespaces", "orphan-pts-master", "post-restore"} {
				if err := tell(script); err != nil {
					return err
				}
				reply, err := next()
				if err != nil {
					return err
				}
				if !reply.GetNotifySuccess() {
					answer.Success = ptr(false)
					break
				}
			}
			answer.Restore = &rpc.CriuRestoreResp{Pid: ptr[int32](77)}
		}
		data, err := answer.MarshalVT()
		if err != nil {
			return err
		}
		if _, err := unix.Write(3, data); err != nil {
			return err
		}
		if !r.GetKeepOpen() {
			return nil
		}
	}
}

func next() (*rpc.CriuReq, error) {
	buf := make([]byte, 4096)
	n, err := unix.Read(3, buf)
	if err != nil {
		return nil, err
	}
	var r rpc.CriuReq
	return &r, r.UnmarshalVT(buf[:n])
}

// tell notifies; with the terminal goes descriptor 4, the first of Config.Files.
func tell(script string) error {
	data, err := (&rpc.CriuResp{Type: ptr(rpc.CriuReqType_NOTIFY), Success: ptr(true),
		Notify: &rpc.CriuNotify{Script: &script, Pid: ptr[int32](42)}}).MarshalVT()
	if err != nil {
		return err
	}
	var rights []byte
	if script == "orphan-pts-master" {
		rights = unix.UnixRights(FirstFile)
	}
	return unix.Sendmsg(3, data, rights, nil, 0)
}

func start(t *testing.T, how string, files ...*os.File) (*Service, error) {
	t.Helper()
	testutil.CheckLeaks(t)
	t.Setenv(fakeEnv, how)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Start(t.Context(), Config{Program: self, Files: files})
}

func TestNotificationsAndTheTerminal(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(r.Close(), w.Close()) }()
	s, err := start(t, "whole", w)
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	pid, err := s.Do(Restore, &Options{ImagesDirFD: 1}, func(n Notification) error {
		seen = append(seen, n.Script)
		if n.Pid != 42 {
			t.Errorf("%s: pid %d", n.Script, n.Pid)
		}
		if (n.File != nil) != (n.Script == "orphan-pts-master") {
			t.Errorf("%s: file %v", n.Script, n.File)
		}
		if n.File == nil {
			return nil
		}
		_, err := n.File.WriteString("hello")
		return errors.Join(err, n.File.Close())
	})
	if err != nil || pid != 77 || strings.Join(seen, " ") != "setup-namespaces orphan-pts-master post-restore" {
		t.Errorf("pid %d, %v, %v", pid, seen, err)
	}
	buf := make([]byte, 5)
	if _, err := r.Read(buf); err != nil || string(buf) != "hello" {
		t.Errorf("the file that came is another: %q, %v", buf, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestARefusedNotificationIsTheError(t *testing.T) {
	s, err := start(t, "whole")
	if err != nil {
		t.Fatal(err)
	}
	refusal := errors.New("hooks.prestart[0] failed")
	if _, err := s.Do(Restore, &Options{ImagesDirFD: 1}, func(Notification) error { return refusal }); !errors.Is(err, refusal) {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestWhatCRIUSaysIsInTheError(t *testing.T) {
	for how, want := range map[string]string{
		"old":     "version 3.16 or later",
		"dead":    "Error (fake): no vDSO",
		"quits":   "Error (fake): out of ideas",
		"failing": "it is there: file exists",
	} {
		t.Run(how, func(t *testing.T) {
			s, err := start(t, how)
			if err == nil {
				_, err = s.Do(Dump, &Options{ImagesDirFD: 1}, func(Notification) error { return nil })
				if e := s.Close(); e != nil {
					t.Error(e)
				}
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q in it", err, want)
			}
		})
	}
}

func TestAMissingProgramIsNamed(t *testing.T) {
	_, err := Start(context.Background(), Config{Program: "/no/criu"})
	if err == nil || !strings.Contains(err.Error(), "/no/criu") || !strings.Contains(err.Error(), "install CRIU") {
		t.Error(err)
	}
}

func TestRequireNamesWhatIsMissing(t *testing.T) {
	s, err := start(t, "whole")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Require(Features{LazyPages: true}); err != nil {
		t.Error(err)
	}
	if err := s.Require(Features{MemTrack: true}); err == nil || !strings.Contains(err.Error(), "soft-dirty") {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestQuote(t *testing.T) {
	log := "(00.1) fine\n(00.2) Error (criu/a.c:1): first\n(00.3) fine\n(00.4) Error (criu/b.c:2): last\n"
	if got := Quote(strings.NewReader(log)); got != "(00.2) Error (criu/a.c:1): first; (00.4) Error (criu/b.c:2): last" {
		t.Error(got)
	}
	if got := Quote(strings.NewReader("fine\n")); got != "" {
		t.Error(got)
	}
	long := strings.Repeat("Error "+strings.Repeat("x", 1000)+"\n", 100)
	if got := Quote(strings.NewReader(long)); len(got) > maxQuoted*(maxLine+2) {
		t.Errorf("%d bytes", len(got))
	}
}
