//! What the formats other than OpenAI's need of a conversation, once for all.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use postern_proto::Failure;
use postern_proto::completion::v1::response_format::JsonSchema;
use postern_proto::completion::v1::{
    ContentPart, Image, Message, Parameters, ResponseFormat, Role, content_part, image, response_format,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};

/// The headers with the key in one of them.
///
/// # Errors
/// INTERNAL when the key is no header's value.
pub fn headers(name: HeaderName, prefix: &str, key: Option<&SecretString>) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    if let Some(key) = key {
        let mut value = HeaderValue::from_str(&format!("{prefix}{}", key.expose_secret()))
            .map_err(|_| Failure::internal("the API key is not a header's value"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// The name of a call as those take it that allow letters, digits, `_` and `-` alone; a call and its result come out alike.
pub fn plain_id(id: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !id.is_empty() && id.chars().all(is_plain) {
        return id.to_owned();
    }
    let plain: String = id.chars().map(|c| if is_plain(c) { c } else { '_' }).take(48).collect();
    // Two that differ stay two.
    format!("{plain}_{:08x}", crc32fast::hash(id.as_bytes()))
}

/// A name as one segment of a path.
pub fn segment(name: &str) -> String {
    form_urlencoded::byte_serialize(name.as_bytes()).collect()
}

/// A message's role.
///
/// # Errors
/// REQUEST_INVALID when it has none.
pub fn role(message: &Message) -> Result<Role, Failure> {
    match Role::try_from(message.role) {
        Ok(Role::Unspecified) | Err(_) => Err(Failure::field("messages.role", "is missing")),
        Ok(role) => Ok(role),
    }
}

/// The texts of a message, which is of texts alone, as one.
///
/// # Errors
/// REQUEST_INVALID for anything else.
pub fn text_of(parts: &[ContentPart], of: &str) -> Result<String, Failure> {
    let text = |part: &ContentPart| match &part.part {
        Some(content_part::Part::Text(text)) => Ok(text.clone()),
        _ => Err(Failure::field("messages.content", format!("{of} holds text only"))),
    };
    Ok(parts.iter().map(text).collect::<Result<Vec<_>, _>>()?.join("\n"))
}

/// The messages with the images of tools' results in a question of their own, for formats in which a result is text alone.
pub fn images_apart(messages: &[Message]) -> Vec<Message> {
    let is_image = |part: &ContentPart| matches!(part.part, Some(content_part::Part::Image(_)));
    let (mut apart, mut held): (Vec<Message>, Vec<ContentPart>) = (Vec::new(), Vec::new());
    let flush = |apart: &mut Vec<Message>, held: &mut Vec<ContentPart>| {
        if !held.is_empty() {
            let content = std::mem::take(held);
            apart.push(Message { role: Role::User as i32, content, ..Message::default() });
        }
    };
    for message in messages {
        if message.role != Role::Tool as i32 {
            flush(&mut apart, &mut held);
            apart.push(message.clone());
            continue;
        }
        let (images, content): (Vec<_>, Vec<_>) = message.content.iter().cloned().partition(is_image);
        held.extend(images);
        apart.push(Message { content, ..message.clone() });
    }
    flush(&mut apart, &mut held);
    apart
}

/// What a server signed, marked as that server's: it means nothing to others.
pub fn signed_by(provider: &str, signature: &str) -> String {
    format!("{provider}:{signature}")
}

/// What this provider's server signed, unless another's did.
pub fn own_signature<'a>(provider: &str, signature: &'a str) -> Option<&'a str> {
    signature.strip_prefix(provider)?.strip_prefix(':')
}

/// Where an image is.
pub enum Picture {
    /// Its media type and its bytes as base64.
    Data(String, String),
    /// A URL, which the model's server fetches.
    Url(String),
}

/// Reads an image; a `data:` URL is its bytes.
///
/// # Errors
/// REQUEST_INVALID when it has no source.
pub fn picture(image: &Image) -> Result<Picture, Failure> {
    match &image.source {
        Some(image::Source::Data(bytes)) => Ok(Picture::Data(media_type(&image.media_type), STANDARD.encode(bytes))),
        Some(image::Source::Url(url)) => match url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")) {
            Some((kind, data)) => Ok(Picture::Data(media_type(kind), data.to_owned())),
            None => Ok(Picture::Url(url.clone())),
        },
        None => Err(Failure::field("messages.content.image", "has no source")),
    }
}

/// The registered name of a media type.
fn media_type(given: &str) -> String {
    if given == "image/jpg" { "image/jpeg".to_owned() } else { given.to_owned() }
}

/// A text that must be JSON.
///
/// # Errors
/// REQUEST_INVALID names the field.
pub fn json_text(field: &str, text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::field(field, format!("is not JSON: {error}")))
}

/// A JSON object in a text; an empty text is an empty one.
///
/// # Errors
/// REQUEST_INVALID names the field.
pub fn json_object(field: &str, text: &str) -> Result<Map<String, Value>, Failure> {
    match text {
        "" => Ok(Map::new()),
        text => match json_text(field, text)? {
            Value::Object(object) => Ok(object),
            _ => Err(Failure::field(field, "is not a JSON object")),
        },
    }
}

/// The schema that an answer must follow, for formats that know no other demand.
///
/// # Errors
/// REQUEST_INVALID for any JSON object at all.
pub fn schema<'a>(
    demanded: Option<&'a ResponseFormat>,
    provider: &str,
) -> Result<Option<(&'a JsonSchema, Value)>, Failure> {
    match demanded.and_then(|format| format.format.as_ref()) {
        None => Ok(None),
        Some(response_format::Format::JsonSchema(schema)) => {
            Ok(Some((schema, json_text("response_format.schema_json", &schema.schema_json)?)))
        }
        Some(response_format::Format::JsonObject(_)) => {
            let problem = format!("the provider {provider} wants a schema (json_schema) for JSON");
            Err(Failure::field("response_format", problem))
        }
    }
}

/// Parameters that a format has, by name; those that are set and that it has not are dropped with a warning.
pub struct Dropped<'a> {
    provider: &'a str,
    pub warnings: Vec<String>,
}

impl<'a> Dropped<'a> {
    pub const fn of(provider: &'a str) -> Self {
        Self { provider, warnings: Vec::new() }
    }

    /// Drops a parameter if it is set.
    pub fn parameter(&mut self, name: &str, is_set: bool) {
        if is_set {
            self.warnings.push(format!("`{name}` was dropped: the provider {} has none", self.provider));
        }
    }

    /// Drops the members that only servers of OpenAI's API may know.
    pub fn extra(&mut self, parameters: &Parameters) -> Result<(), Failure> {
        for name in json_object("parameters.extra_json", &parameters.extra_json)?.keys() {
            // A hint for servers of another API, on which no answer depends.
            if name == "reasoning_summary" {
                continue;
            }
            let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
            self.parameter(&shown, true);
        }
        Ok(())
    }

    /// Refuses more than one choice.
    pub fn one_choice(&self, parameters: &Parameters) -> Result<(), Failure> {
        match parameters.choices {
            None | Some(1) => Ok(()),
            Some(_) => Err(Failure::field("parameters.choices", format!("the provider {} gives one", self.provider))),
        }
    }
}
