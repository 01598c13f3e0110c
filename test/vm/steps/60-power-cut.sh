# Power cut, ten times, beside creates and deletes: SQLite whole, no answered create lost
prepare() {
	# The mock engine makes sandboxes in milliseconds: most of the transactions are its.
	echo STACYVM_PROVIDERS_MOCK_ENABLED=true >/etc/stacyvm/environment
	systemctl restart stacyvm
	ready
	cat >/root/churn.py <<'END'
"""Creates and destroys sandboxes without end and tells the serial port what was answered: churn.py PROVIDER KEEP PAUSE; every
KEEP-th sandbox stays."""
import http.client, json, os, sys, time
provider, keep, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
serial = os.open("/dev/ttyS0", os.O_WRONLY)
headers = {"X-API-Key": os.environ["STACYVM_API_KEY"], "Content-Type": "application/json"}
connection = http.client.HTTPConnection("127.0.0.1", 7423, timeout=60)
def call(method, path, body=None):
    try:
        connection.request(method, "/api/v1/sandboxes" + path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return 0, b""
n = 0
while True:
    status, body = call("POST", "", json.dumps({"ttl": "2h", "provider": provider, "memory_mb": 64}))
    if status == 201:
        made = json.loads(body)["id"]
        os.write(serial, b"ANSWERED %s\n" % made.encode())
        n += 1
        if n % keep:
            status, _ = call("DELETE", "/" + made)
            if 200 <= status < 300:
                os.write(serial, b"DESTROYED %s\n" % made.encode())
    time.sleep(pause)
END
	sync # these two files outlive the first cut
}
load() {
	set +e
	ready
	python3 /root/churn.py mock 6 0 &
	python3 /root/churn.py mock 6 0 &
	python3 /root/churn.py gvisor 50 5 &
	wait
}
