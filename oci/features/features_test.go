package features

import (
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/strake-containers/strake/oci/plan"
)

var update = flag.Bool("update", false, "write the golden files anew")

// What is in the golden file is a promise to whoever asks before they write a config.
func TestFeatures(t *testing.T) {
	const file = "testdata/features.golden"
	f := Of(plan.Host{Kernel: [2]int{6, 12}})
	f.Annotations = nil // the version
	got, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s differs; run go test -update and read git diff", file)
	}
}

func TestFeaturesOfAnOlderKernel(t *testing.T) {
	const name = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" // since Linux 5.19
	for kernel, want := range map[[2]int]bool{{5, 18}: false, {5, 19}: true} {
		f := Of(plan.Host{Kernel: kernel}).Linux.Seccomp
		if !slices.Contains(f.KnownFlags, name) || slices.Contains(f.SupportedFlags, name) != want {
			t.Errorf("Linux %v: %+v", kernel, f)
		}
	}
}

// Annotations that an engine must not let its users set (features.md).
func TestUnsafeAnnotationsAreTold(t *testing.T) {
	got := Of(plan.Host{}).PotentiallyUnsafeConfigAnnotations
	if want := []string{"org.criu.config", "org.systemd.property.", "run.oci.keep_original_groups"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// FuzzFeatures: on any kernel the output is JSON that reads as what it was made from,
// and names no flag as supported that is not known.
func FuzzFeatures(f *testing.F) {
	f.Add(5, 14)
	f.Add(6, 18)
	f.Add(-1, 1<<30)
	f.Fuzz(func(t *testing.T, major, minor int) {
		want := Of(plan.Host{Kernel: [2]int{major, minor}})
		data, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got features.Features
		if err := json.Unmarshal(data, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s reads as %+v, %v", data, got, err)
		}
		for _, flag := range want.Linux.Seccomp.SupportedFlags {
			if !slices.Contains(want.Linux.Seccomp.KnownFlags, flag) {
				t.Errorf("%s is not known", flag)
			}
		}
	})
}
