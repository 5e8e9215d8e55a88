// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
/*
 * The store at an S3 server, against one that answers as it is told: what is asked and how it is
 * signed, lists page by page, long objects in parts, and what becomes of each when the server
 * refuses, contradicts itself or sends XML that is none. (A real server: tests/system.)
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/cond.h"
#include "store/s3.h"
#include "store/s3_internal.h"
#include "tests/own_dir.h"
#include "web_server.h"

#define SECRET "GeheimerSchluessel"
#define TOKEN "GeheimesZeichen"

/* ---- a store at a server ---- */

struct both {
	struct web_server *server;
	struct store *store;
	struct err err;
};

static struct both *both_new(web_server_answer *answer, const void *arg)
{
	struct both *both = calloc(1, sizeof(*both));
	struct store_url url;
	struct err err;
	char text[256];

	both->server = web_server_new(0, answer, (void *)(uintptr_t)arg);
	snprintf(text, sizeof(text),
		 "s3://bucket/pre fix?endpoint=http://127.0.0.1:%u&region=eu-test-1&timeout=2",
		 web_server_port(both->server));
	assert_int_equal(store_url_parse(&url, text, &err), 0);
	if (s3_store_new(&both->store, &url, NULL, &err) < 0)
		fail_msg("%s", err.text);
	return both;
}

static void both_free(struct both *both)
{
	store_free(both->store);
	web_server_free(both->server);
	free(both);
}

static void expect_text(struct both *both, int64_t result, int code, const char *text)
{
	if (result != code || !strstr(both->err.text, text))
		fail_msg("%d and \"%s\" were expected: %d, \"%s\"", code, text, (int)result,
			 both->err.text);
	assert_null(strstr(both->err.text, SECRET));
	assert_null(strstr(both->err.text, TOKEN));
}

static void say(struct web_client *client, const char *status, const char *body)
{
	web_client_say(client, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n\r\n", status, strlen(body));
	web_client_send(client, body, strlen(body));
}

/* ---- how it is asked ---- */

struct asked {
	char head[16384];
};

static void answer_object(struct web_client *client, void *arg)
{
	struct asked *asked = arg;

	memcpy(asked->head, client->head, sizeof(asked->head));
	web_client_say(client, "HTTP/1.1 206 x\r\nContent-Range: bytes 10-14/100\r\n"
		       "Content-Length: 5\r\n\r\nhello");
}

static void requests_are_signed(void **state)
{
	struct asked *asked = calloc(1, sizeof(*asked));
	struct both *both = both_new(answer_object, asked);
	char data[5];

	(void)state;
	assert_int_equal(store_get(both->store, NULL, "a/b", 10, data, 5, 0, &both->err), 5);
	assert_memory_equal(data, "hello", 5);
	assert_non_null(strstr(asked->head, "GET /bucket/pre%20fix/a/b HTTP/1.1\n"));
	assert_non_null(strstr(asked->head, "Range: bytes=10-14\n"));
	assert_non_null(strstr(asked->head, "x-amz-content-sha256: UNSIGNED-PAYLOAD\n"));
	assert_non_null(strstr(asked->head, "x-amz-security-token: " TOKEN "\n"));
	assert_non_null(strstr(asked->head, "Authorization: AWS4-HMAC-SHA256 Credential=KEY/"));
	assert_non_null(strstr(asked->head, "/eu-test-1/s3/aws4_request"));
	assert_non_null(
		strstr(asked->head, "x-amz-content-sha256;x-amz-date;x-amz-security-token"));
	assert_null(strstr(asked->head, SECRET));
	assert_string_equal(store_label(both->store), "s3://bucket/pre fix");
	both_free(both);
	free(asked);
}

/* ---- logins that end ---- */

static void answer_renewed(struct web_client *client, void *arg)
{
	_Atomic unsigned int *refused = arg;

	if (strstr(client->head, "Credential=NEW/")) {
		web_client_say(client, "HTTP/1.1 206 x\r\nContent-Range: bytes 10-14/100\r\n"
			       "Content-Length: 5\r\n\r\nhello");
	} else {
		++*refused;
		say(client, "400 x", "<Error><Code>ExpiredToken</Code></Error>");
	}
}

static void write_login(const char *path, const char *key)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	fprintf(file, "[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", key,
		SECRET);
	assert_int_equal(fclose(file), 0);
}

static void a_login_is_renewed_from_its_file(void **state)
{
	struct own_dir dir = own_dir_new();
	_Atomic unsigned int refused = 0;
	struct web_server *server = web_server_new(0, answer_renewed, (void *)&refused);
	struct store *store;
	struct store_url url;
	struct err err;
	char text[128], path[64], data[5];
	unsigned int i;

	(void)state;
	snprintf(path, sizeof(path), "%s/login", dir.path);
	write_login(path, "OLD");
	snprintf(text, sizeof(text), "s3://bucket?endpoint=http://127.0.0.1:%u", web_server_port(server));
	assert_int_equal(store_url_parse(&url, text, &err), 0);
	assert_int_equal(s3_store_new(&store, &url, path, &err), 0);
	write_login(path, "NEW");
	/* Both lanes. */
	for (i = 0; i < 4; i++)
		assert_int_equal(
			store_get(store, NULL, "a", 10, data, 5, i % 2 ? STORE_URGENT : 0, &err),
			5);
	assert_int_equal(refused, 1);
	store_free(store);
	web_server_free(server);
	unlink(path);
	own_dir_free(&dir);
}

static void a_login_that_stays_the_same_is_asked_with_once(void **state)
{
	struct own_dir dir = own_dir_new();
	_Atomic unsigned int refused = 0;
	struct web_server *server = web_server_new(0, answer_renewed, (void *)&refused);
	struct store *store;
	struct store_url url;
	struct err err;
	char text[128], path[64], data[5];

	(void)state;
	snprintf(path, sizeof(path), "%s/login", dir.path);
	write_login(path, "OLD");
	snprintf(text, sizeof(text), "s3://bucket?endpoint=http://127.0.0.1:%u", web_server_port(server));
	assert_int_equal(store_url_parse(&url, text, &err), 0);
	assert_int_equal(s3_store_new(&store, &url, path, &err), 0);
	assert_int_equal(store_get(store, NULL, "a", 10, data, 5, 0, &err), -EACCES);
	assert_non_null(strstr(err.text, "renew the session token"));
	assert_int_equal(refused, 1);
	store_free(store);
	web_server_free(server);
	unlink(path);
	own_dir_free(&dir);
}

/* ---- refusals ---- */

struct refusal {
	const char *status, *body;
};

static void answer_refusal(struct web_client *client, void *arg)
{
	const struct refusal *refusal = arg;

	say(client, refusal->status, refusal->body);
}

static void expect_refusal(const char *status, const char *body, int code, const char *text)
{
	const struct refusal refusal = { status, body };
	struct both *both = both_new(answer_refusal, &refusal);
	char data[5];

	expect_text(both, store_get(both->store, NULL, "a", 10, data, 5, 0, &both->err), code,
		    text);
	both_free(both);
}

static void refusals_say_what_to_do(void **state)
{
	(void)state;
	expect_refusal("404 x", "<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code></Error>",
		       -ENOENT, "404 Not Found (NoSuchKey)");
	expect_refusal("404 x", "<Error><Code>NoSuchBucket</Code><Message>no</Message></Error>",
		       -ENOENT, "(NoSuchBucket: make the bucket");
	expect_refusal("403 x", "<Error><Code>SignatureDoesNotMatch</Code></Error>", -EACCES,
		       "is the secret access key the right one?");
	expect_refusal("400 x", "<Error><Code>AuthorizationHeaderMalformed</Code></Error>", -EINVAL,
		       "?region=");
	expect_refusal("400 x", "<Error><Code>RequestTimeout</Code></Error>", -EAGAIN,
		       "RequestTimeout");
	expect_refusal("503 x", "<Error><Code>SlowDown</Code><Message>a\nb</Message></Error>",
		       -EAGAIN, "(SlowDown: a?b)");
	expect_refusal("403 x", "<!DOCTYPE a [<!ENTITY b \"c\">]><Error><Code>&b;</Code></Error>",
		       -EACCES, "403 Forbidden: give credentials");
	expect_refusal("403 x", "", -EACCES, "403");
	expect_refusal("301 x\r\nx-amz-bucket-region: us-west-9", "", -EINVAL,
		       "say ?region=us-west-9");
	expect_refusal("307 x\r\nLocation: http://127.0.0.1:9/", "", -EPROTO, "which is not followed");
	/* libcurl makes URLs of these that have the secret in them. */
	expect_refusal("307 x\r\nLocation: /elsewhere", "", -EPROTO, "/elsewhere, which is not followed");
	expect_refusal("307 x\r\nLocation: ?elsewhere", "", -EPROTO, "which is not followed");
	expect_refusal("307 x\r\nLocation: elsewhere", "", -EPROTO, "/elsewhere, which is not followed");
	expect_refusal("307 x\r\nLocation: http://a:b@127.0.0.1:9/", "", -EPROTO,
		       "sends to http://127.0.0.1:9/, which is not followed");
}

/* ---- lists ---- */

struct told {
	char text[4096];
};

static void tell(void *arg, const char *object, uint64_t bytes)
{
	struct told *told = arg;
	size_t n = strlen(told->text);

	snprintf(told->text + n, sizeof(told->text) - n, "%s:%u ", object, (unsigned int)bytes);
}

#define PAGE(more, entries)                                                                        \
	"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"                                             \
	"<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">"                     \
	"<Name>bucket</Name>" more entries "<EncodingType>url</EncodingType></ListBucketResult>"
#define ENTRY(key, size)                                                                           \
	"<Contents><Key>" key "</Key><LastModified>2026</LastModified><Size>" size                 \
	"</Size><Owner><ID>x</ID></Owner></Contents>"
#define MORE(token)                                                                                \
	"<IsTruncated>true</IsTruncated><NextContinuationToken>" token "</NextContinuationToken>"

static void answer_pages(struct web_client *client, void *arg)
{
	static const char first[] = "/bucket?encoding-type=url&list-type=2&prefix=pre%20fix%2Fim";
	static const char second[] =
		"/bucket?continuation-token=a%2B%2F%3D&encoding-type=url&list-type=2&prefix=pre%20fix%2Fim";

	(void)arg;
	if (web_client_is(client, "GET", first))
		say(client, "200 OK",
		    PAGE(MORE("a+/="),
			 ENTRY("pre+fix%2Fimage%2Fpack-0", "67108864") ENTRY("pre%20fix/im", "0")
				 ENTRY("pre%20fix/other", "1") ENTRY("elsewhere/im", "1")));
	else if (web_client_is(client, "GET", second))
		say(client, "200 OK", PAGE("<IsTruncated>false</IsTruncated>",
			ENTRY("pre%20fix/im%00age", "1") ENTRY("pre%20fix/im/../x", "1")
			ENTRY("pre%20fix/im%2", "1") ENTRY("pre%20fix/im//x", "1")
			ENTRY("pre%20fix/image/z", "3")));
	else
		say(client, "400 x", "");
}

static void a_list_is_read_page_by_page(void **state)
{
	struct both *both = both_new(answer_pages, NULL);
	struct told told = { "" };

	(void)state;
	assert_int_equal(store_list(both->store, NULL, "im", 0, tell, &told, &both->err), 0);
	assert_string_equal(told.text, "image/pack-0:67108864 im:0 image/z:3 ");
	both_free(both);
}

static void answer_folders(struct web_client *client, void *arg)
{
	(void)arg;
	if (web_client_is(client, "GET", "/bucket?delimiter=%2F&encoding-type=url&list-type=2&"
			  "prefix=pre%20fix%2F"))
		say(client, "200 OK", PAGE("", ENTRY("pre%20fix/a", "1")
			"<CommonPrefixes><Prefix>pre%20fix/b/</Prefix></CommonPrefixes>"
			"<CommonPrefixes><Prefix>pre%20fix/../</Prefix></CommonPrefixes>"
			"<CommonPrefixes><Prefix>pre%20fix//</Prefix></CommonPrefixes>"
			"<CommonPrefixes><Prefix>pre%20fix/</Prefix></CommonPrefixes>"));
	else
		say(client, "400 x", "");
}

static void a_shallow_list_tells_folders(void **state)
{
	struct both *both = both_new(answer_folders, NULL);
	struct told told = { "" };

	(void)state;
	assert_int_equal(store_list(both->store, NULL, "", STORE_SHALLOW, tell, &told, &both->err),
			 0);
	assert_string_equal(told.text, "a:1 b/:0 ");
	both_free(both);
}

static void expect_list(const char *body, int code, const char *text)
{
	const struct refusal refusal = { "200 OK", body };
	struct both *both = both_new(answer_refusal, &refusal);
	struct told told = { "" };

	expect_text(both, store_list(both->store, NULL, "", 0, tell, &told, &both->err), code,
		    text);
	both_free(both);
}

static void lists_that_are_none_are_refused(void **state)
{
	char *nested = calloc(1, 4096), *tag = malloc(300000);
	unsigned int i;

	(void)state;
	expect_list(PAGE(MORE("again"), ""), -EBADMSG, "has no end");
	expect_list(PAGE(MORE(""), ""), -EBADMSG, "has no end");
	expect_list("", -EBADMSG, "cannot be read");
	expect_list("<html><body>Welcome</body></html>", -EBADMSG, "is this S3?");
	expect_list("<ListBucketResult><Contents>", -EBADMSG, "cannot be read");
	expect_list("<!DOCTYPE x [<!ENTITY a \"b\">]><ListBucketResult>&a;</ListBucketResult>",
		    -EBADMSG, "has a document type");
	expect_list("<a><b>\xff</b></a>", -EBADMSG, "cannot be read");
	for (i = 0; i < 100; i++)
		strcat(nested, "<a>");
	expect_list(nested, -EBADMSG, "nested too deeply");
	memset(tag, 'x', 299999);
	memcpy(tag, "<a>", 3);
	tag[299999] = 0;
	expect_list(tag, -EBADMSG, "text that is too long");
	memcpy(tag, "<a b='", 6);
	expect_list(tag, -EBADMSG, "tag that is too long");
	free(nested);
	free(tag);
}

/* A list whose pages never end would be read for ever: but it can be cancelled. */
static void answer_page_after_page(struct web_client *client, void *arg)
{
	char body[1024];

	(void)arg;
	snprintf(body, sizeof(body), "<ListBucketResult>%s<NextContinuationToken>%u"
		 "</NextContinuationToken><IsTruncated>true</IsTruncated></ListBucketResult>",
		 "<Contents><Key>pre fix/a</Key></Contents>", client->number);
	say(client, "200 OK", body);
}

static struct store_scope list_scope;

static void tell_and_cancel(void *arg, const char *object, uint64_t bytes)
{
	unsigned int *times = arg;

	(void)object, (void)bytes;
	if (++*times == 10)
		store_scope_cancel(&list_scope);
}

static void a_list_without_end_can_be_cancelled(void **state)
{
	struct both *both = both_new(answer_page_after_page, NULL);
	unsigned int times = 0;

	(void)state;
	store_scope_init(&list_scope);
	assert_int_equal(
		store_list(both->store, &list_scope, "", 0, tell_and_cancel, &times, &both->err),
		-ECANCELED);
	assert_true(times >= 10);
	store_scope_fini(&list_scope);
	both_free(both);
}

/* ---- long objects ---- */

enum fault {
	NONE,
	NO_ID,
	PART_REFUSED,
	PART_WITHOUT_TAG,
	PART_HANGS,
	END_REFUSED,
	END_FAILS,
	END_EXISTS,
	END_CUT
};

struct uploads {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum fault fault;
	unsigned int parts, aborted, completed, heads;
	uint8_t *data;		/* what the parts make */
	char list[4096];
};

static void take_part(struct web_client *client, struct uploads *uploads, unsigned int number)
{
	if (uploads->fault == PART_REFUSED && number == 2) {
		say(client, "503 x", "<Error><Code>SlowDown</Code></Error>");
		return;
	}
	if (uploads->fault == PART_HANGS && number == 2) {
		uploads->parts++;
		pthread_cond_broadcast(&uploads->changed);
		pthread_mutex_unlock(&uploads->lock);
		web_client_hang(client);
		pthread_mutex_lock(&uploads->lock);
		return;
	}
	memcpy(uploads->data + (number - 1) * S3_PART_BYTES, client->body, client->body_len);
	uploads->parts++;
	if (uploads->fault == PART_WITHOUT_TAG)
		say(client, "200 OK", "");
	else
		web_client_say(client,
			       "HTTP/1.1 200 OK\r\nETag: \"tag-%u\"\r\nContent-Length: 0\r\n\r\n",
			       number);
}

static void complete(struct web_client *client, struct uploads *uploads)
{
	static const char whole[] =
		"\n \n<?xml version=\"1.0\"?><CompleteMultipartUploadResult><ETag>x</ETag>"
		"</CompleteMultipartUploadResult>";
	static const char *const bodies[] = {
		[NONE] = whole,
		[END_FAILS] =
			"<?xml version=\"1.0\"?>\n\n<Error><Code>InternalError</Code></Error>",
		[END_CUT] = "<CompleteMultipartUploadResult><ETag>",
	};
	char condition[8] = "none";

	snprintf(uploads->list, sizeof(uploads->list), "%.*s", (int)client->body_len,
		 (char *)client->body);
	web_client_field(client, "If-None-Match", condition, sizeof(condition));
	if (uploads->fault == END_EXISTS) {
		assert_string_equal(condition, "*");
		say(client, "412 x", "");
		return;
	}
	assert_string_equal(condition, "none");
	if (uploads->fault == END_REFUSED) {
		say(client, "400 x", "<Error><Code>InvalidPart</Code></Error>");
		return;
	}
	uploads->completed++;
	say(client, "200 OK", bodies[uploads->fault]);
}

static void answer_upload(struct web_client *client, void *arg)
{
	struct uploads *uploads = arg;
	unsigned int number;

	pthread_mutex_lock(&uploads->lock);
	if (!strncmp(client->head, "HEAD ", 5)) {
		uploads->heads++;
		say(client, "404 x", "");
	} else if (web_client_is(client, "POST", "/bucket/pre%20fix/a?uploads=")) {
		say(client, "200 OK", uploads->fault == NO_ID ? "<Initiate/>" :
		    "<InitiateMultipartUploadResult><UploadId>i/d</UploadId>"
		    "</InitiateMultipartUploadResult>");
	} else if (sscanf(client->head, "PUT /bucket/pre%%20fix/a?partNumber=%u&uploadId=i%%2Fd ",
			  &number) == 1) {
		take_part(client, uploads, number);
	} else if (web_client_is(client, "POST", "/bucket/pre%20fix/a?uploadId=i%2Fd")) {
		complete(client, uploads);
	} else if (web_client_is(client, "DELETE", "/bucket/pre%20fix/a?uploadId=i%2Fd")) {
		uploads->aborted++;
		say(client, "204 x", "");
	} else {
		say(client, "400 x", "");
	}
	pthread_cond_broadcast(&uploads->changed);
	pthread_mutex_unlock(&uploads->lock);
}

#define LONG (S3_UPLOAD_BYTES + S3_PART_BYTES + 12345)

static uint8_t *long_object(void)
{
	uint8_t *data = malloc(LONG);
	uint64_t i;

	for (i = 0; i < LONG; i++)
		data[i] = (uint8_t)((i * 2654435761u) >> 15);
	return data;
}

static void uploads_init(struct uploads *uploads, enum fault fault)
{
	memset(uploads, 0, sizeof(*uploads));
	pthread_mutex_init(&uploads->lock, NULL);
	cond_init(&uploads->changed);
	uploads->fault = fault;
	uploads->data = calloc(1, LONG);
}

static void uploads_fini(struct uploads *uploads)
{
	free(uploads->data);
	pthread_cond_destroy(&uploads->changed);
	pthread_mutex_destroy(&uploads->lock);
}

static void a_long_object_is_sent_in_parts(void **state)
{
	uint8_t *data = long_object();
	struct uploads uploads;
	struct both *both;

	(void)state;
	uploads_init(&uploads, NONE);
	both = both_new(answer_upload, &uploads);
	if (store_put(both->store, NULL, "a", data, LONG, 0, &both->err) != LONG)
		fail_msg("%s", both->err.text);
	assert_memory_equal(uploads.data, data, LONG);
	assert_int_equal(uploads.parts, 4);
	assert_int_equal(uploads.completed, 1);
	assert_int_equal(uploads.aborted, 0);
	assert_int_equal(uploads.heads, 0);
	assert_string_equal(uploads.list, "<CompleteMultipartUpload>"
			    "<Part><PartNumber>1</PartNumber><ETag>\"tag-1\"</ETag></Part>"
			    "<Part><PartNumber>2</PartNumber><ETag>\"tag-2\"</ETag></Part>"
			    "<Part><PartNumber>3</PartNumber><ETag>\"tag-3\"</ETag></Part>"
			    "<Part><PartNumber>4</PartNumber><ETag>\"tag-4\"</ETag></Part>"
			    "</CompleteMultipartUpload>");
	both_free(both);
	uploads_fini(&uploads);
	free(data);
}

static void an_upload_that_fails_is_given_up(void **state)
{
	static const struct {
		enum fault fault;
		int code;
		const char *text;
		unsigned int aborted;
	} of[] = {
		{ NO_ID, -EBADMSG, "gives it no id", 0 },
		{ PART_REFUSED, -EAGAIN, "503 Service Unavailable (SlowDown) to a part", 1 },
		{ PART_WITHOUT_TAG, -EBADMSG, "nothing of a part", 1 },
		{ END_REFUSED, -EPROTO, "400 Bad Request (InvalidPart)", 1 },
		{ END_FAILS, -EAGAIN, "parts together (InternalError)", 1 },
		{ END_CUT, -EAGAIN, "parts together", 1 },
		{ END_EXISTS, -EEXIST, "there already", 1 },
	};
	uint8_t *data = long_object();
	struct uploads uploads;
	struct both *both;
	unsigned int i, flags;

	(void)state;
	for (i = 0; i < sizeof(of) / sizeof(of[0]); i++) {
		uploads_init(&uploads, of[i].fault);
		both = both_new(answer_upload, &uploads);
		flags = of[i].fault == END_EXISTS ? STORE_NEW : 0;
		expect_text(both, store_put(both->store, NULL, "a", data, LONG, flags, &both->err),
			    of[i].code, of[i].text);
		/* The store's end waits for that. */
		store_free(both->store);
		both->store = NULL;
		assert_int_equal(uploads.aborted, of[i].aborted);
		assert_int_equal(uploads.heads, flags ? 1 : 0);
		both_free(both);
		uploads_fini(&uploads);
	}
	free(data);
}

/* ---- cancelling one ---- */

struct put {
	struct store_request request;
	struct uploads *uploads;
	bool done;
};

static void put_done(struct store_request *request)
{
	struct put *put = request->arg;

	pthread_mutex_lock(&put->uploads->lock);
	put->done = true;
	pthread_cond_broadcast(&put->uploads->changed);
	pthread_mutex_unlock(&put->uploads->lock);
}

static void an_upload_that_is_cancelled_is_given_up(void **state)
{
	uint8_t *data = long_object();
	struct uploads uploads;
	struct both *both;
	struct put put = { .request = { .verb = STORE_PUT, .object = "a", .data = data, .len = LONG,
					.done = put_done, .arg = &put }, .uploads = &uploads };
	int64_t until = clock_now_ns() + 20 * NS_PER_SEC;

	(void)state;
	uploads_init(&uploads, PART_HANGS);
	both = both_new(answer_upload, &uploads);
	store_begin(both->store, &put.request);
	pthread_mutex_lock(&uploads.lock);
	while (uploads.parts < 4)
		assert_int_equal(cond_wait(&uploads.changed, &uploads.lock, until), 0);
	pthread_mutex_unlock(&uploads.lock);
	store_cancel(both->store, &put.request);
	pthread_mutex_lock(&uploads.lock);
	while (!put.done)
		assert_int_equal(cond_wait(&uploads.changed, &uploads.lock, until), 0);
	pthread_mutex_unlock(&uploads.lock);
	assert_int_equal(put.request.result, -ECANCELED);
	/* Whatever it still does, it reads no more of what it was to write. */
	free(data);
	store_free(both->store);
	both->store = NULL;
	assert_int_equal(uploads.aborted, 1);
	both_free(both);
	uploads_fini(&uploads);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests_are_signed),
		cmocka_unit_test(a_login_is_renewed_from_its_file),
		cmocka_unit_test(a_login_that_stays_the_same_is_asked_with_once),
		cmocka_unit_test(refusals_say_what_to_do),
		cmocka_unit_test(a_list_is_read_page_by_page),
		cmocka_unit_test(a_shallow_list_tells_folders),
		cmocka_unit_test(lists_that_are_none_are_refused),
		cmocka_unit_test(a_list_without_end_can_be_cancelled),
		cmocka_unit_test(a_long_object_is_sent_in_parts),
		cmocka_unit_test(an_upload_that_fails_is_given_up),
		cmocka_unit_test(an_upload_that_is_cancelled_is_given_up),
	};

	setenv("AWS_ACCESS_KEY_ID", "KEY", 1);
	setenv("AWS_SECRET_ACCESS_KEY", SECRET, 1);
	setenv("AWS_SESSION_TOKEN", TOKEN, 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
