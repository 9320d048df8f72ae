package plan

import "testing"

// The categories of an SELinux context are parted by the comma that parts options, too:
// mount(2) takes it in quotes.
func TestPageQuotesContexts(t *testing.T) {
	o := mountOptions{values: [][2]string{{"lowerdir", "/a:/b"}, {"context", "u:r:t:s0:c1,c2"}, {"rootcontext", "u:r:t:s0"}}, flags: []string{"volatile"}}
	if got, want := o.page(), `lowerdir=/a:/b,context="u:r:t:s0:c1,c2",rootcontext=u:r:t:s0,volatile`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
