package runtime

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// attempt is a vulnerability of an OCI runtime and the tests of ours that attempt it.
type attempt struct {
	cve    string
	worked string   // the versions that it works on, or did: what makes it an attempt
	does   string   // what the attacker does
	tests  []string // FILE:FUNCTION, from the root of the repository
}

// attempts are the rows: each vulnerability of runc and crun that a container, an
// image or a caller without privileges can use. None works on Strake.
var attempts = []attempt{
	{"CVE-2016-3697", "runc before 0.1.0", "a passwd entry whose name is a number takes the place of that number",
		[]string{"oci/container/cve_test.go:TestHomeOfANumberIsNotThatOfAName", "pod/bundle/bundle_test.go:TestUsers"}},
	{"CVE-2016-9962", "runc before 1.0-rc3", "ptrace a process that joins the container, or read its /proc/PID/fd",
		[]string{"oci/container/cve_test.go:TestJoiningProcessCannotBeLookedInto", "oci/container/watch_test.go:TestJoinerHasNothingOfTheHost"}},
	{"CVE-2019-5736", "runc before 1.0-rc7", "have /proc/self/exe executed, then write to the runtime's own program",
		[]string{"oci/container/cve_test.go:TestOwnBinaryIsNotExecutedInside", "oci/container/stub_test.go", "oci/container/crash_test.go:TestSealedProgramCannotBeWrittenTo", "test/e2e/runtime/sealed_test.go", "shim/task/sealed_test.go"}},
	{"CVE-2019-16884", "runc before 1.0.0-rc9", "a volume over /proc takes the writes of labels",
		[]string{"oci/container/cve_test.go:TestWritesReachProcfsWithAVolumeOverProc"}},
	{"CVE-2019-18837", "crun before 0.10.5", "a mount's target is an absolute link",
		[]string{"oci/container/cve_test.go:TestLinksInTheRootfsStayInside", "oci/container/mounts_test.go:TestMountPointsBehindLinks"}},
	{"CVE-2019-19921", "runc before 1.0.0-rc10", "/proc of the rootfs is a link, or is swapped with one",
		[]string{"oci/container/cve_test.go:TestLinkedProcAndSysAreRefused", "oci/container/races_test.go:TestSwappedProcIsRefusedOrReal"}},
	{"CVE-2021-30465", "runc before 1.0.0-rc95", "a mount's target is swapped with a link to the host meanwhile",
		[]string{"oci/container/cve_test.go:TestSwappedMountTargetMakesNothingOnTheHost"}},
	{"CVE-2021-43784", "runc before 1.0.3", "so many id mappings or so long paths that a length overflows",
		[]string{"oci/container/cve_test.go:TestHugeListsAreRefused"}},
	{"CVE-2022-27650", "crun before 1.4.4", "exec --cap makes a capability inheritable",
		[]string{"test/crash/runtime/users_test.go"}},
	{"CVE-2022-29162", "runc before 1.1.2", "exec --cap makes a capability inheritable",
		[]string{"test/crash/runtime/users_test.go"}},
	{"CVE-2023-25809", "runc before 1.1.5", "write to /sys/fs/cgroup, rootless and without a cgroup namespace",
		[]string{"oci/container/races_test.go:TestDelegatedCgroupIsReadOnlyWithoutItsNamespace"}},
	{"CVE-2023-27561", "runc 1.0.0-rc95 to 1.1.4", "/proc of the rootfs is swapped with a link",
		[]string{"oci/container/races_test.go:TestSwappedProcIsRefusedOrReal"}},
	{"CVE-2023-28642", "runc before 1.1.5", "/proc of the rootfs is a link, so that labels go elsewhere",
		[]string{"oci/container/cve_test.go:TestLinkedProcAndSysAreRefused"}},
	{"CVE-2024-21626", "runc 1.0.0-rc93 to 1.1.11", "the working directory is a descriptor of the host's",
		[]string{"oci/container/cve_test.go:TestWorkingDirectoryIsNoDescriptorOfOurs", "test/e2e/runtime/descriptors_test.go:TestNothingOfTheHost"}},
	{"CVE-2024-45310", "runc before 1.1.14, 1.2.0-rc.1 and rc.2", "a mount's target is swapped, so that files are made on the host",
		[]string{"oci/container/cve_test.go:TestSwappedMountTargetMakesNothingOnTheHost"}},
	{"CVE-2025-31133", "runc before 1.2.8, 1.3.3, 1.4.0-rc.3", "/dev/null is swapped with a link when files are masked with it",
		[]string{"oci/container/cve_test.go:TestLinkedDeviceNodesAreRefused", "oci/container/races_test.go:TestSwappedNullMasksNothingElse"}},
	{"CVE-2025-52565", "runc before 1.2.8, 1.3.3, 1.4.0-rc.3", "/dev/pts/N is swapped when it is bound to /dev/console",
		[]string{"oci/container/cve_test.go:TestLinkedDeviceNodesAreRefused", "oci/container/cve_test.go:TestLinkedTerminalIsNotBound"}},
	{"CVE-2025-52881", "runc before 1.2.8, 1.3.3, 1.4.0-rc.3", "writes of labels and sysctls reach another file of procfs",
		[]string{"oci/container/races_test.go:TestRedirectedSysctlIsNotFollowed"}},
	{"CVE-2026-30892", "crun before 1.27", "exec --user with a text that begins like a number",
		[]string{"test/crash/runtime/users_test.go"}},
	{"CVE-2026-41579", "runc before 1.3.6, 1.4.3, 1.5.0-rc.3", "/dev of the image is a link to a place on the host",
		[]string{"oci/container/cve_test.go:TestLinksInTheRootfsStayInside"}},
	{"CVE-2026-47766", "crun to 1.27.1", "/dev of the image is a link to a place on the host",
		[]string{"oci/container/cve_test.go:TestLinksInTheRootfsStayInside"}},
}

// The table says the truth: each row's tests are there, and name it if they name any.
func TestEveryAttemptHasItsTest(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	rows := map[string]bool{}
	for _, a := range attempts {
		rows[a.cve] = true
		named := false
		for _, test := range a.tests {
			file, function, _ := strings.Cut(test, ":")
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, parser.ParseComments)
			if err != nil {
				t.Errorf("%s: %v", a.cve, err)
				continue
			}
			for _, c := range parsed.Comments {
				named = named || strings.Contains(c.Text(), a.cve)
			}
			if function != "" && parsed.Scope.Lookup(function) == nil {
				t.Errorf("%s: %s has no %s", a.cve, file, function)
			}
		}
		if !named {
			t.Errorf("%s: no comment in %v names it", a.cve, a.tests)
		}
	}
	// And no test is missing in the table.
	for _, dir := range []string{"oci", "shim", "test", "cmd"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
			if err != nil {
				return err
			}
			for _, c := range parsed.Comments {
				for word := range strings.FieldsFuncSeq(c.Text(), func(r rune) bool { return !strings.ContainsRune("CVE-0123456789", r) }) {
					if strings.HasPrefix(word, "CVE-2") && len(word) > 8 && !rows[strings.TrimRight(word, "-")] {
						t.Errorf("%s: %s is not in the table", path, word)
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}
