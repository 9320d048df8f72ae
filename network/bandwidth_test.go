package network

import "testing"

func TestLimits(t *testing.T) {
	for text, want := range map[string]uint64{
		"10M": 10e6, "1.5k": 1500, "1e6": 1e6, "1Gi": 1 << 30, "2048": 2048, "1P": 1e15,
		"": 0, "0": 0, "-1M": 0, "999": 0, "2P": 0, "10 M": 0, "10m": 0, "ten": 0, "NaN": 0, "infP": 0,
	} {
		b, err := Pod{Annotations: map[string]string{egressAnnotation: text}}.Limits()
		if b.EgressRate != want || b.IngressRate != 0 || (err != nil) != (want == 0) {
			t.Errorf("%q: %+v, %v; want %d", text, b, err, want)
		}
	}
	p := Pod{Bandwidth: Bandwidth{IngressRate: 1}, Annotations: map[string]string{ingressAnnotation: "wrong"}}
	if b, err := p.Limits(); b != p.Bandwidth || err != nil {
		t.Errorf("explicit: %+v, %v", b, err)
	}
	if b, err := (Pod{}).Limits(); b != (Bandwidth{}) || err != nil {
		t.Errorf("none: %+v, %v", b, err)
	}
}
