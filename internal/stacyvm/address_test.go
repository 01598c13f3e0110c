package stacyvm

import (
	"net/netip"
	"testing"
)

func TestNoWorkerAddress(t *testing.T) {
	for text, refused := range map[string]bool{
		"169.254.169.254": true, "169.254.0.1": true, "::ffff:169.254.169.254": true, "64:ff9b::a9fe:a9fe": true, "fe80::1": true, "fe80::1%eth0": true,
		"fd00:ec2::254": true, "100.100.100.200": true, "168.63.129.16": true, "192.0.0.192": true, "0.0.0.0": true, "::": true, "224.0.0.1": true, "ff02::1": true,
		"127.0.0.1": false, "::1": false, "10.0.0.7": false, "192.0.2.1": false, "fd00::1": false, "2001:db8::1": false, "64:ff9b::c000:201": false, "100.100.100.201": false,
	} {
		if got := NoWorkerAddress(netip.MustParseAddr(text)); got != refused {
			t.Errorf("%s: %v, want %v", text, got, refused)
		}
	}
}
